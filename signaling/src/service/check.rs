//! What a request must look like before the core hears of it. Every broken rule is reported at once, by field.

use std::ops::RangeInclusive;

use farcall_proto::limits::{MAX_FRAME_BYTES, MAX_ID_CHARS, MAX_LOG_FRAMES, MAX_SDP_BYTES};
use farcall_proto::signaling::v1::peer_message::Payload;
use farcall_proto::signaling::v1::{self, JoinRequest, PeerMessage, SessionDescriptionType};
use prost::Message;
use tonic_types::FieldViolation;

use super::status::Problem;
use crate::room::{Join, Outgoing, Profile, Resume, Secret};
use crate::wire::{self, ClientFrame};

/// A join in the core's words.
pub(super) fn join(request: JoinRequest) -> Result<Join, Problem> {
    let mut fields = Fields::default();
    fields.chars("room", &request.room, 1..=MAX_ID_CHARS);
    fields.chars("display_name", &request.display_name, 0..=MAX_ID_CHARS);
    if !request.request_id.is_empty() {
        fields.chars("request_id", &request.request_id, MIN_REQUEST_ID_CHARS..=MAX_ID_CHARS);
    }
    if !matches!(request.identity_key.len(), 0 | IDENTITY_KEY_BYTES) {
        fields.broken("identity_key", format!("has {} bytes instead of 32", request.identity_key.len()));
    }
    if let Some(can) = &request.capabilities {
        fields.capabilities(can);
    }
    if let Some(resume) = &request.resume {
        fields.session("resume.session_id", &resume.session_id);
        fields.secret("resume.resume_secret", &resume.resume_secret);
    }
    fields.done()?;
    Ok(Join {
        room: request.room.as_str().into(),
        profile: Profile {
            display_name: request.display_name,
            capabilities: request.capabilities,
            identity_key: request.identity_key.into(),
            identity: String::new(),
        },
        request_id: (!request.request_id.is_empty()).then(|| request.request_id.into()),
        resume: request.resume.map(|resume| Resume {
            session: resume.session_id.as_str().into(),
            secret: resume.resume_secret.into(),
            last_received_seq: resume.last_received_seq,
        }),
        may_create: true,
    })
}

/// Who is calling: a session id and a secret that could be one.
pub(super) fn caller(session_id: &str, secret: &[u8]) -> Result<(), Problem> {
    let mut fields = Fields::default();
    fields.session("session_id", session_id);
    fields.secret("resume_secret", secret);
    fields.done()
}

/// The frames up to the first that breaks a rule, and what is wrong with that one.
pub(super) fn frames(frames: Vec<ClientFrame>) -> (Vec<Outgoing>, Result<(), Problem>) {
    let mut good = Vec::with_capacity(frames.len().min(MAX_LOG_FRAMES));
    for (index, frame) in frames.into_iter().enumerate() {
        let mut fields = Fields { within: format!("frames[{index}]."), broken: Vec::new() };
        if index == MAX_LOG_FRAMES {
            fields.broken("client_seq", format!("comes after {MAX_LOG_FRAMES} others in one call"));
        }
        match fields.frame(frame) {
            Ok(outgoing) => good.push(outgoing),
            Err(problem) => return (good, Err(problem)),
        }
    }
    (good, Ok(()))
}

#[derive(Default)]
struct Fields {
    /// What the fields' names begin with.
    within: String,
    broken: Vec<FieldViolation>,
}

impl Fields {
    fn done(self) -> Result<(), Problem> {
        if self.broken.is_empty() { Ok(()) } else { Err(self.problem()) }
    }

    fn problem(self) -> Problem {
        Problem::BadFields(self.broken)
    }

    fn broken(&mut self, field: &str, rule: String) {
        self.broken.push(FieldViolation::new(format!("{}{field}", self.within), rule));
    }

    fn chars(&mut self, field: &str, value: &str, allowed: RangeInclusive<usize>) {
        let (min, max) = (*allowed.start(), *allowed.end());
        // Counting stops one past the bound, however long the value.
        let length = value.chars().take(max.saturating_add(1)).count();
        if length == 0 && min > 0 {
            self.broken(field, "is empty".into());
        } else if length < min {
            self.broken(field, format!("is shorter than {min} characters"));
        } else if length > max {
            self.broken(field, format!("is longer than {max} characters"));
        }
    }

    fn session(&mut self, field: &str, id: &str) {
        self.chars(field, id, 1..=MAX_ID_CHARS);
    }

    fn secret(&mut self, field: &str, secret: &[u8]) {
        if secret.len() != Secret::LENGTH {
            self.broken(field, format!("has {} bytes instead of {}", secret.len(), Secret::LENGTH));
        }
    }

    fn capabilities(&mut self, can: &v1::PeerCapabilities) {
        self.chars("capabilities.user_agent", &can.user_agent, 0..=MAX_ID_CHARS);
        if can.features.len() > MAX_FEATURES {
            self.broken("capabilities.features", format!("has more than {MAX_FEATURES} entries"));
        }
        for (index, feature) in can.features.iter().take(MAX_FEATURES).enumerate() {
            self.chars(&format!("capabilities.features[{index}]"), feature, 1..=MAX_ID_CHARS);
        }
    }

    fn frame(mut self, frame: ClientFrame) -> Result<Outgoing, Problem> {
        let size = frame.encoded_len();
        if size > MAX_FRAME_BYTES {
            self.broken("message", format!("makes a frame of {size} bytes, more than {MAX_FRAME_BYTES}"));
            return Err(self.problem());
        }
        if frame.client_seq == 0 {
            self.broken("client_seq", "is 0; frames count from 1".into());
        }
        let Some(message) = frame.message else {
            self.broken("message", "is missing".into());
            return Err(self.problem());
        };
        let (decoded, message) = match (PeerMessage::decode(message.clone()), wire::without_sender(&message))
        {
            (Ok(decoded), Ok(message)) => (decoded, message),
            (Err(error), _) | (_, Err(error)) => {
                self.broken("message", format!("is no PeerMessage: {error}"));
                return Err(self.problem());
            }
        };
        self.message(&decoded);
        let to = decoded.to_session_id.as_str();
        let to = (!to.is_empty()).then(|| to.into());
        self.done()?;
        Ok(Outgoing { client_seq: frame.client_seq, to, message })
    }

    fn message(&mut self, decoded: &PeerMessage) {
        self.chars("message.to_session_id", &decoded.to_session_id, 0..=MAX_ID_CHARS);
        self.chars("message.negotiation_id", &decoded.negotiation_id, 0..=MAX_ID_CHARS);
        match &decoded.payload {
            Some(Payload::Description(description)) => {
                if description.r#type == i32::from(SessionDescriptionType::Unspecified) {
                    self.broken("message.description.type", "is not said".into());
                }
                if description.sdp.len() > MAX_SDP_BYTES {
                    let size = description.sdp.len();
                    let rule = format!("has {size} bytes, more than {MAX_SDP_BYTES}");
                    self.broken("message.description.sdp", rule);
                }
            }
            Some(Payload::Hangup(hangup)) => {
                self.chars("message.hangup.reason", &hangup.reason, 0..=MAX_HANGUP_CHARS);
            }
            Some(
                Payload::Candidates(_)
                | Payload::Text(_)
                | Payload::Data(_)
                | Payload::IdentityAssertion(_)
                | Payload::CodeExchange(_),
            )
            // A kind that is newer than this server.
            | None => {}
        }
    }
}

const MIN_REQUEST_ID_CHARS: usize = 16;
const IDENTITY_KEY_BYTES: usize = 32;
const MAX_FEATURES: usize = 16;
const MAX_HANGUP_CHARS: usize = 256;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn named(problem: Problem) -> Vec<String> {
        let Problem::BadFields(fields) = problem else { panic!("{problem:?}") };
        fields.into_iter().map(|field| field.field).collect()
    }

    fn frame(client_seq: u64, message: &PeerMessage) -> ClientFrame {
        ClientFrame { client_seq, message: Some(message.encode_to_vec().into()) }
    }

    #[test]
    fn frames_are_taken_up_to_the_first_that_breaks_a_rule() {
        let good = PeerMessage { to_session_id: "bob".into(), ..PeerMessage::default() };
        let bad = PeerMessage { negotiation_id: "x".repeat(65), ..PeerMessage::default() };
        let (taken, rest) = frames(vec![frame(1, &good), frame(2, &bad), frame(3, &good)]);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].to, Some("bob".into()));
        assert_eq!(named(rest.unwrap_err()), ["frames[1].message.negotiation_id"]);
    }

    #[test]
    fn what_the_sender_says_about_itself_is_gone() {
        let forged = PeerMessage { from_session_id: "eve".into(), ..PeerMessage::default() };
        let (taken, _) = frames(vec![frame(1, &forged)]);
        assert_eq!(taken[0].message, Bytes::new());
    }

    #[test]
    fn a_call_carries_as_many_frames_as_a_log_holds() {
        let empty = PeerMessage::default();
        let (taken, rest) = frames((1..=513).map(|number| frame(number, &empty)).collect());
        assert_eq!((taken.len(), named(rest.unwrap_err())), (512, vec!["frames[512].client_seq".into()]));
    }

    #[test]
    fn every_bad_field_of_one_frame_is_named() {
        let bad = PeerMessage {
            to_session_id: "x".repeat(65),
            negotiation_id: "x".repeat(65),
            payload: Some(Payload::Description(v1::SessionDescription::default())),
            ..PeerMessage::default()
        };
        let (_, rest) = frames(vec![frame(0, &bad)]);
        assert_eq!(
            named(rest.unwrap_err()),
            [
                "frames[0].client_seq",
                "frames[0].message.to_session_id",
                "frames[0].message.negotiation_id",
                "frames[0].message.description.type",
            ]
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), client_seq in any::<u64>()) {
            let (taken, rest) = frames(vec![ClientFrame { client_seq, message: Some(bytes.into()) }]);
            prop_assert_eq!(taken.is_empty(), rest.is_err());
        }
    }
}
