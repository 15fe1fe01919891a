//! Clients that are newer than the server: what it does not know passes through it unchanged.

use farcall_proto::signaling::v1::{JoinRequest, SendResponse};
use prost::Message;
use tonic::Request;
use tonic_prost::ProstCodec;

use crate::harness::{Server, request, soon};

/// A `PeerMessage` with a kind of payload, and in a description a field, that this server has never heard of.
#[derive(Clone, PartialEq, Message)]
struct FutureMessage {
    #[prost(string, tag = "1")]
    from_session_id: String,
    #[prost(message, optional, tag = "4")]
    description: Option<FutureDescription>,
    #[prost(string, tag = "154")]
    hologram: String,
}

#[derive(Clone, PartialEq, Message)]
struct FutureDescription {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    sdp: String,
    #[prost(string, tag = "77")]
    mood: String,
}

#[derive(Clone, PartialEq, Message)]
struct FutureFrame {
    #[prost(uint64, tag = "1")]
    client_seq: u64,
    #[prost(message, optional, tag = "2")]
    message: Option<FutureMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct FutureSend {
    #[prost(string, tag = "1")]
    session_id: String,
    #[prost(bytes = "vec", tag = "2")]
    resume_secret: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    frames: Vec<FutureFrame>,
}

#[derive(Clone, PartialEq, Message)]
struct FutureJoinResponse {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(message, optional, tag = "4")]
    message: Option<FutureMessage>,
}

#[tokio::test]
async fn what_the_server_does_not_know_passes_through_it() {
    let server = Server::start(&[]).await;
    let path = |method| format!("/farcall.signaling.v1.SignalingService/{method}").parse().unwrap();
    let mut grpc = tonic::client::Grpc::new(server.channel().await);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<JoinRequest, FutureJoinResponse>::default();
    let join = grpc.server_streaming(Request::new(request("red")), path("Join"), codec).await.unwrap();
    let mut stream = join.into_inner();
    let bob = server.join("red").await;

    // 9 is a type of description that nobody has thought of yet.
    let description = FutureDescription { kind: 9, sdp: "v=0".into(), mood: "sunny".into() };
    let message = FutureMessage {
        from_session_id: "somebody else".into(),
        description: Some(description),
        hologram: "\u{1f44b}".into(),
    };
    let send = FutureSend {
        session_id: bob.id().into(),
        resume_secret: bob.welcome.resume_secret.clone(),
        frames: vec![FutureFrame { client_seq: 1, message: Some(message.clone()) }],
    };
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<FutureSend, SendResponse>::default();
    grpc.unary(Request::new(send), path("Send"), codec).await.unwrap();

    let arrived = loop {
        let frame = soon("a frame", stream.message()).await.unwrap().expect("the stream ended");
        if let Some(message) = frame.message {
            break message;
        }
    };
    assert_eq!(arrived, FutureMessage { from_session_id: bob.id().into(), ..message });
}
