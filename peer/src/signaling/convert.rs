//! Between the protocol's messages and the session core's words.

use farcall_proto::signaling::v1 as proto;
use farcall_proto::signaling::v1::code_exchange::Step as WireStep;

use crate::identity::{Algorithm, Assertion, MOST_FINGERPRINTS, Step};
use crate::net::IceServer;
use crate::report::ParticipantState;
use crate::session::{Candidate, LeaveReason, Participant, Payload, SessionId};

/// The feature by which a process is recognised under a new session.
const INSTANCE_FEATURE: &str = "instance=";

pub(super) fn capabilities(instance: &str) -> proto::PeerCapabilities {
    proto::PeerCapabilities {
        user_agent: concat!("farcall-peer/", env!("CARGO_PKG_VERSION")).to_owned(),
        features: vec![format!("{INSTANCE_FEATURE}{instance}")],
    }
}

pub(super) fn participant(participant: proto::Participant) -> Participant {
    use proto::ParticipantState as State;
    let state = match participant.state() {
        State::Waiting => ParticipantState::Waiting,
        State::Connected | State::Unspecified => ParticipantState::Connected,
        State::Reconnecting => ParticipantState::Reconnecting,
        State::Left => ParticipantState::Left,
    };
    let features = participant.capabilities.map(|capabilities| capabilities.features).unwrap_or_default();
    let instance = features.iter().find_map(|feature| feature.strip_prefix(INSTANCE_FEATURE));
    Participant {
        session: SessionId::new(&participant.session_id),
        ordinal: participant.ordinal,
        instance: instance.unwrap_or_default().to_owned(),
        state,
    }
}

pub(super) fn leave_reason(reason: proto::LeaveReason) -> LeaveReason {
    match reason {
        proto::LeaveReason::Left => LeaveReason::Left,
        proto::LeaveReason::LeaseExpired => LeaveReason::LeaseExpired,
        proto::LeaveReason::Removed => LeaveReason::Removed,
        proto::LeaveReason::Overflow => LeaveReason::Overflow,
        proto::LeaveReason::Replaced => LeaveReason::Replaced,
        proto::LeaveReason::Unspecified => LeaveReason::Unknown,
    }
}

/// What a message says; nothing for kinds that this version does not know or has no use for.
pub(super) fn payload(payload: proto::peer_message::Payload) -> Option<Payload> {
    use proto::peer_message::Payload as Wire;
    match payload {
        Wire::Description(description) => match description.r#type() {
            proto::SessionDescriptionType::Offer => Some(Payload::Offer { sdp: description.sdp }),
            // A provisional answer would only hold up the final one.
            proto::SessionDescriptionType::Answer => Some(Payload::Answer { sdp: description.sdp }),
            proto::SessionDescriptionType::Pranswer
            | proto::SessionDescriptionType::Rollback
            | proto::SessionDescriptionType::Unspecified => None,
        },
        Wire::Candidates(batch) => Some(Payload::Candidates {
            candidates: batch.candidates.into_iter().map(candidate).collect(),
            end: batch.end_of_candidates,
            ufrag: batch.username_fragment,
        }),
        Wire::Text(text) => Some(Payload::Text(text)),
        Wire::Hangup(hangup) => Some(Payload::Hangup { reason: hangup.reason }),
        Wire::IdentityAssertion(assertion) => Some(Payload::Assertion(heard_assertion(assertion)?)),
        Wire::CodeExchange(exchange) => Some(Payload::Introduction(match exchange.step? {
            WireStep::Share(share) => Step::Share(share),
            WireStep::Confirmation(proof) => Step::Confirmation(proof),
        })),
        Wire::Data(_) => None,
    }
}

/// The message that says it.
pub(super) fn message(to: &SessionId, negotiation: String, payload: Payload) -> proto::PeerMessage {
    use proto::peer_message::Payload as Wire;
    let payload = match payload {
        Payload::Offer { sdp } => Wire::Description(description(proto::SessionDescriptionType::Offer, sdp)),
        Payload::Answer { sdp } => Wire::Description(description(proto::SessionDescriptionType::Answer, sdp)),
        Payload::Candidates { candidates, end, ufrag } => Wire::Candidates(proto::IceCandidates {
            candidates: candidates.into_iter().map(wire_candidate).collect(),
            end_of_candidates: end,
            username_fragment: ufrag,
        }),
        Payload::Text(text) => Wire::Text(text),
        Payload::Hangup { reason } => Wire::Hangup(proto::Hangup { reason }),
        Payload::Assertion(Assertion { algorithm, public_key, signature, fingerprints }) => {
            Wire::IdentityAssertion(proto::IdentityAssertion {
                algorithm: algorithm.name().to_owned(),
                public_key,
                signature,
                fingerprints,
            })
        }
        Payload::Introduction(step) => Wire::CodeExchange(proto::CodeExchange {
            step: Some(match step {
                Step::Share(share) => WireStep::Share(share),
                Step::Confirmation(proof) => WireStep::Confirmation(proof),
            }),
        }),
    };
    proto::PeerMessage {
        to_session_id: to.to_string(),
        negotiation_id: negotiation,
        payload: Some(payload),
        ..proto::PeerMessage::default()
    }
}

pub(super) fn ice_server(server: proto::IceServer) -> IceServer {
    IceServer { urls: server.urls, username: server.username, credential: server.credential }
}

/// Nothing if it is signed in a way that this version does not know.
fn heard_assertion(assertion: proto::IdentityAssertion) -> Option<Assertion> {
    let proto::IdentityAssertion { algorithm, public_key, signature, mut fingerprints } = assertion;
    fingerprints.truncate(MOST_FINGERPRINTS);
    Some(Assertion { algorithm: Algorithm::of_name(&algorithm)?, public_key, signature, fingerprints })
}

fn description(kind: proto::SessionDescriptionType, sdp: String) -> proto::SessionDescription {
    proto::SessionDescription { r#type: kind.into(), sdp }
}

fn candidate(candidate: proto::IceCandidate) -> Candidate {
    Candidate {
        line: candidate.candidate,
        mid: candidate.sdp_mid,
        m_line_index: candidate.sdp_m_line_index.and_then(|index| index.try_into().ok()),
        url: None,
    }
}

fn wire_candidate(candidate: Candidate) -> proto::IceCandidate {
    proto::IceCandidate {
        candidate: candidate.line,
        sdp_mid: candidate.mid,
        sdp_m_line_index: candidate.m_line_index.map(u32::from),
        username_fragment: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let candidate = Candidate {
            line: "candidate:1 1 udp 1 192.0.2.7 9 typ host".into(),
            mid: Some("0".into()),
            m_line_index: Some(0),
            url: None,
        };
        for said in [
            Payload::Offer { sdp: "v=0".into() },
            Payload::Answer { sdp: "v=0".into() },
            Payload::Candidates { candidates: vec![candidate], end: true, ufrag: "u".into() },
            Payload::Hangup { reason: "bye".into() },
            Payload::Text("hello".into()),
            Payload::Assertion(Assertion {
                algorithm: Algorithm::Ed25519,
                public_key: vec![1; 32],
                signature: vec![2; 64],
                fingerprints: vec!["sha-256 AA".into()],
            }),
            Payload::Introduction(Step::Share(vec![3])),
            Payload::Introduction(Step::Confirmation(vec![4])),
        ] {
            let wire = message(&SessionId::new("b"), "n".into(), said.clone());
            assert_eq!((wire.to_session_id.as_str(), wire.negotiation_id.as_str()), ("b", "n"));
            assert_eq!(payload(wire.payload.unwrap()), Some(said));
        }
    }

    #[test]
    fn a_process_is_recognised_by_its_instance() {
        let wire = proto::Participant {
            session_id: "a".into(),
            capabilities: Some(capabilities("0123")),
            ..proto::Participant::default()
        };
        assert_eq!(participant(wire).instance, "0123");
    }
}
