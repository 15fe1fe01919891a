//! What else answers on the port, and what strangers can do to it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::harness::{Participant, Server, request, soon};

const SERVICE: &str = "farcall.signaling.v1.SignalingService";

#[tokio::test]
async fn both_versions_of_reflection_list_the_service() {
    let server = Server::start(&[]).await;
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(server.channel().await);
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = soon("an answer", answers.next()).await.unwrap().unwrap();
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("no list")
    };
    assert!(list.service.iter().any(|service| service.name == SERVICE));

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            SERVICE.into(),
        )),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel().await);
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = soon("an answer", answers.next()).await.unwrap().unwrap();
    assert!(matches!(
        answer.message_response,
        Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
    ));
}

#[tokio::test]
async fn health_is_known_for_the_server_and_for_the_service() {
    let server = Server::start(&[]).await;
    let mut client = HealthClient::new(server.channel().await);
    for service in ["", SERVICE] {
        let answer = client.check(HealthCheckRequest { service: service.into() }).await.unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
}

#[tokio::test]
async fn nonsense_on_the_port_hurts_nobody() {
    let server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    let nonsense: [&[u8]; 6] = [
        b"\x00\xff\x00\xffnonsense\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x08\x01\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\nnonsense\r\n\r\n",
        b"POST /farcall.signaling.v1.SignalingService/Join HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\ncontent-length: 5\r\n\r\n\xff\xff\xff\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ];
    for bytes in nonsense {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Whatever it answers, it ends; a reset is an end as well.
        let _ = soon("the end of the connection", stream.read_to_end(&mut answer)).await;
    }
    let mut bob = server.join("red").await;
    ada.next_event().await;
    bob.text("unhurt").await;
    assert_eq!(ada.next_text().await, "unhurt");
}

#[tokio::test]
async fn hundreds_of_participants_share_one_connection() {
    let server = Server::start(&[]).await;
    let client = server.client().await;
    let mut pairs = Vec::new();
    for room in 0..300 {
        let join = || Participant::join(client.clone(), request(&format!("room-{room}")));
        pairs.push((join().await.unwrap(), join().await.unwrap()));
    }
    for (number, (first, second)) in pairs.iter_mut().enumerate() {
        first.text(&number.to_string()).await;
        assert_eq!(second.next_text().await, number.to_string());
    }
}

#[tokio::test]
async fn a_malformed_call_is_refused_and_the_connection_lives() {
    let server = Server::start(&[]).await;
    let mut raw = tonic::client::Grpc::new(server.channel().await);
    raw.ready().await.unwrap();
    let request = HealthCheckRequest { service: "x".into() };
    let path = format!("/{SERVICE}/Nothing").parse().unwrap();
    let codec = tonic_prost::ProstCodec::<_, tonic_health::pb::HealthCheckResponse>::default();
    let status = raw.unary(tonic::Request::new(request), path, codec).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    raw.ready().await.unwrap();
    let path = format!("/{SERVICE}/Join").parse().unwrap();
    // Field 1 of a `JoinRequest` is a string; here it is a number.
    let number = farcall_proto::signaling::v1::UndeliverableFrame { client_seq: 1, ..Default::default() };
    let codec = tonic_prost::ProstCodec::<_, farcall_proto::signaling::v1::JoinResponse>::default();
    let status = raw.unary(tonic::Request::new(number), path, codec).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Internal);
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let server = Server::start(&["--metrics-listen", "127.0.0.1:0"]).await;
    let address = server.ready["ready"]["metrics"].as_str().unwrap();
    let mut ada = server.join("red").await;
    let bob = server.join("red").await;
    ada.text("counted").await;
    let mut bob = bob.resume(0).await;
    bob.next_text().await;
    let full = server.client().await.join(request("red")).await;
    assert_eq!(full.unwrap_err().code(), tonic::Code::ResourceExhausted);
    let page = http(address, "GET /metrics HTTP/1.1").await;
    for line in [
        "farcall_signaling_sessions 2",
        "farcall_signaling_rooms 1",
        "farcall_signaling_frames_received_total 1",
        "farcall_signaling_joins_total{result=\"new\"} 2",
        "farcall_signaling_joins_total{result=\"resumed\"} 1",
        "farcall_signaling_refusals_total{reason=\"ROOM_FULL\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} not in\n{page}");
    }
    assert!(http(address, "GET /healthz HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    assert!(http(address, "GET /else HTTP/1.1").await.starts_with("HTTP/1.1 404"));
}

/// Asks over HTTP/1.1 and returns the whole answer.
pub(crate) async fn http(address: &str, asked: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{asked}\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer)).await.unwrap();
    answer
}
