//! The two messages that carry a `PeerMessage`, with that message kept as bytes.
//!
//! A decoder drops what it does not know; kept as bytes, kinds and fields that are newer than this server pass
//! through it. On the wire these are the messages of `farcall-proto`, to the byte.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use farcall_proto::signaling::v1;
use prost::encoding::{DecodeContext, WireType, decode_key, encode_key, encode_varint, skip_field};
use prost::{DecodeError, Message, Oneof};
use prost_types::Timestamp;
use tonic::codec::{BufferSettings, Codec as TonicCodec};
use tonic_prost::ProstCodec;

/// `farcall.signaling.v1.JoinResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct JoinResponse {
    /// The frame's place in the log, or 0.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// When it entered the log, or was sent.
    #[prost(message, optional, tag = "2")]
    pub server_time: Option<Timestamp>,
    /// What it says.
    #[prost(oneof = "Body", tags = "3, 4, 5, 6, 7, 8, 9")]
    pub body: Option<Body>,
}

/// `farcall.signaling.v1.JoinResponse.body`.
#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    /// The session, always first.
    #[prost(message, boxed, tag = "3")]
    Welcome(Box<v1::Welcome>),
    /// An encoded `PeerMessage`.
    #[prost(bytes = "bytes", tag = "4")]
    Message(Bytes),
    /// About another participant.
    #[prost(message, boxed, tag = "5")]
    Participant(Box<v1::ParticipantEvent>),
    /// Nothing happened.
    #[prost(message, tag = "6")]
    KeepAlive(v1::KeepAlive),
    /// New credentials.
    #[prost(message, tag = "7")]
    IceServers(v1::IceServersUpdate),
    /// The stream is about to end.
    #[prost(message, tag = "8")]
    GoAway(v1::GoAway),
    /// Frames were lost.
    #[prost(message, tag = "9")]
    ResyncRequired(v1::ResyncRequired),
}

/// `farcall.signaling.v1.SendRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct SendRequest {
    /// Whose frames.
    #[prost(string, tag = "1")]
    pub session_id: String,
    /// Proves it.
    #[prost(bytes = "bytes", tag = "2")]
    pub resume_secret: Bytes,
    /// In order.
    #[prost(message, repeated, tag = "3")]
    pub frames: Vec<ClientFrame>,
    /// Cumulative.
    #[prost(uint64, tag = "4")]
    pub ack: u64,
}

/// `farcall.signaling.v1.ClientFrame`.
#[derive(Clone, PartialEq, Message)]
pub struct ClientFrame {
    /// Contiguous from 1.
    #[prost(uint64, tag = "1")]
    pub client_seq: u64,
    /// An encoded `PeerMessage`; absent if the frame carries something that this server does not know.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub message: Option<Bytes>,
}

/// An encoded `PeerMessage` without what it says about its sender.
///
/// Everything else stays as it came, known or not, in its order.
pub fn without_sender(message: &Bytes) -> Result<Bytes, DecodeError> {
    let mut kept = BytesMut::new();
    let mut rest = message.clone();
    while rest.has_remaining() {
        let field = rest.clone();
        let (tag, wire_type) = decode_key(&mut rest)?;
        skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
        if tag != FROM_SESSION_ID {
            kept.put_slice(field.get(..field.len() - rest.len()).unwrap_or_default());
        }
    }
    Ok(kept.freeze())
}

/// An encoded `PeerMessage` that says who sent it.
#[must_use]
pub fn with_sender(message: &Bytes, from: &str) -> Bytes {
    let mut whole = BytesMut::with_capacity(message.len() + from.len() + 3);
    encode_key(FROM_SESSION_ID, WireType::LengthDelimited, &mut whole);
    encode_varint(from.len() as u64, &mut whole);
    whole.put_slice(from.as_bytes());
    whole.put_slice(message);
    whole.freeze()
}

/// `PeerMessage.from_session_id`.
const FROM_SESSION_ID: u32 = 1;

/// The protobuf codec with buffers for what a session usually says: most streams are idle most of the time, and a
/// stream keeps its buffer.
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> fmt::Debug for Codec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Codec")
    }
}

impl<T, U> TonicCodec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as TonicCodec>::Encoder;
    type Decoder = <ProstCodec<T, U> as TonicCodec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(buffers())
    }
}

fn buffers() -> BufferSettings {
    BufferSettings::new(256, 32 * 1024)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_reads_the_same_to_both_sides() {
        let message = v1::PeerMessage {
            from_session_id: "alice".into(),
            payload: Some(v1::peer_message::Payload::Text("hello".into())),
            ..Default::default()
        };
        let sent = JoinResponse {
            seq: 7,
            server_time: Some(Timestamp { seconds: 1, nanos: 2 }),
            body: Some(Body::Message(message.encode_to_vec().into())),
        };
        let received = v1::JoinResponse::decode(sent.encode_to_vec().as_slice()).unwrap();
        let expected = v1::JoinResponse {
            seq: 7,
            server_time: Some(Timestamp { seconds: 1, nanos: 2 }),
            body: Some(v1::join_response::Body::Message(message)),
        };
        assert_eq!(received, expected);
    }

    #[test]
    fn every_kind_of_frame_keeps_its_number() {
        type Theirs = v1::join_response::Body;
        let kinds = [
            (Body::Welcome(Box::default()), Theirs::Welcome(v1::Welcome::default())),
            (Body::Message(Bytes::new()), Theirs::Message(v1::PeerMessage::default())),
            (Body::Participant(Box::default()), Theirs::Participant(v1::ParticipantEvent::default())),
            (Body::KeepAlive(v1::KeepAlive {}), Theirs::KeepAlive(v1::KeepAlive {})),
            (
                Body::IceServers(v1::IceServersUpdate::default()),
                Theirs::IceServers(v1::IceServersUpdate::default()),
            ),
            (Body::GoAway(v1::GoAway::default()), Theirs::GoAway(v1::GoAway::default())),
            (
                Body::ResyncRequired(v1::ResyncRequired::default()),
                Theirs::ResyncRequired(v1::ResyncRequired::default()),
            ),
        ];
        for (ours, theirs) in kinds {
            let ours = JoinResponse { seq: 1, server_time: None, body: Some(ours) };
            let theirs = v1::JoinResponse { seq: 1, server_time: None, body: Some(theirs) };
            assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
        }
    }

    #[test]
    fn a_call_reads_the_same_to_both_sides() {
        let message = v1::PeerMessage { to_session_id: "bob".into(), ..Default::default() };
        let frame =
            v1::ClientFrame { client_seq: 3, body: Some(v1::client_frame::Body::Message(message.clone())) };
        let sent = v1::SendRequest {
            session_id: "alice".into(),
            resume_secret: vec![1, 2],
            frames: vec![frame, v1::ClientFrame { client_seq: 4, body: None }],
            ack: 9,
        };
        let received = SendRequest::decode(sent.encode_to_vec().as_slice()).unwrap();
        let frames = vec![
            ClientFrame { client_seq: 3, message: Some(message.encode_to_vec().into()) },
            ClientFrame { client_seq: 4, message: None },
        ];
        let resume_secret = Bytes::from_static(&[1, 2]);
        assert_eq!(received, SendRequest { session_id: "alice".into(), resume_secret, frames, ack: 9 });
    }

    #[test]
    fn a_field_from_the_future_passes_through() {
        let mut message =
            v1::PeerMessage { to_session_id: "bob".into(), ..Default::default() }.encode_to_vec();
        let future = [0xd2, 0x09, 0x02, b'h', b'i']; // field 154, two bytes
        message.extend_from_slice(&future);
        let through = with_sender(&without_sender(&message.into()).unwrap(), "alice");
        assert!(through.ends_with(&future));
        let read = v1::PeerMessage::decode(through).unwrap();
        assert_eq!((read.from_session_id.as_str(), read.to_session_id.as_str()), ("alice", "bob"));
    }

    proptest! {
        /// Contract line 8, on the wire: whatever a client writes into `from`, however often, is not what arrives.
        #[test]
        fn the_sender_is_what_the_server_says(
            claims in prop::collection::vec("\\PC{0,12}", 0..3),
            text in "\\PC*",
            to in "\\PC{0,12}",
        ) {
            let mut forged = Vec::new();
            for claim in claims {
                forged.extend(v1::PeerMessage { from_session_id: claim, ..Default::default() }.encode_to_vec());
            }
            let honest = v1::PeerMessage {
                to_session_id: to,
                payload: Some(v1::peer_message::Payload::Text(text)),
                ..Default::default()
            };
            forged.extend(honest.encode_to_vec());
            let stripped = without_sender(&forged.into()).unwrap();
            prop_assert_eq!(&v1::PeerMessage::decode(stripped.clone()).unwrap(), &honest);
            let arrived = v1::PeerMessage::decode(with_sender(&stripped, "alice")).unwrap();
            prop_assert_eq!(arrived, v1::PeerMessage { from_session_id: "alice".into(), ..honest });
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = without_sender(&bytes.into());
        }
    }
}
