//! What waits to be said: frames numbered contiguously from 1, kept until the server has taken them.

use std::collections::VecDeque;

use farcall_proto::limits;
use farcall_proto::signaling::v1::{ClientFrame, IceCandidates, PeerMessage, client_frame, peer_message};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Not taken yet, oldest first; the first has the number `taken + 1`.
    frames: VecDeque<PeerMessage>,
    /// The highest number that the server has taken.
    taken: u64,
    /// How many of `frames` are in the call under way, and so cannot change any more.
    in_flight: usize,
}

impl Outbox {
    /// Adds a message. Candidates join those that wait already, if they belong together.
    pub(super) fn push(&mut self, message: PeerMessage) {
        let waiting = self.frames.len() > self.in_flight;
        let joined = self.frames.back_mut().filter(|_| waiting).is_some_and(|last| join(last, &message));
        if !joined {
            self.frames.push_back(message);
        }
    }

    /// Whether there is something to send and no call under way.
    pub(super) fn is_due(&self) -> bool {
        self.in_flight == 0 && !self.frames.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many frames the call under way carries.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Frames for one call, within what a server takes at once.
    pub(super) fn batch(&mut self, most: usize) -> Vec<ClientFrame> {
        use prost::Message as _;
        let mut bytes = 0;
        let mut frames = Vec::new();
        for (number, message) in (self.taken + 1..).zip(&self.frames).take(most) {
            bytes += message.encoded_len();
            if !frames.is_empty() && bytes > limits::MAX_FRAME_BYTES {
                break;
            }
            let body = Some(client_frame::Body::Message(message.clone()));
            frames.push(ClientFrame { client_seq: number, body });
        }
        self.in_flight = frames.len();
        frames
    }

    /// The call under way was answered: the server has taken everything up to this number.
    pub(super) fn answered(&mut self, last_client_seq: u64) {
        self.in_flight = 0;
        while self.taken < last_client_seq && self.frames.pop_front().is_some() {
            self.taken += 1;
        }
    }

    /// The call under way failed; its frames are to be sent again.
    pub(super) fn failed(&mut self) {
        self.in_flight = 0;
    }

    /// The server will never take the oldest frame: the next ones move up.
    pub(super) fn refuse_first(&mut self) -> Option<PeerMessage> {
        self.in_flight = 0;
        self.frames.pop_front()
    }

    /// A new session: numbers begin at 1 again, and what was for somebody who is gone is not for anybody else.
    pub(super) fn restart(&mut self, present: impl Fn(&str) -> bool) {
        self.taken = 0;
        self.in_flight = 0;
        self.frames.retain(|message| present(&message.to_session_id));
    }
}

/// Adds candidates to the message before, if both are candidates of the same generation.
fn join(last: &mut PeerMessage, message: &PeerMessage) -> bool {
    if last.to_session_id != message.to_session_id || last.negotiation_id != message.negotiation_id {
        return false;
    }
    let Some(peer_message::Payload::Candidates(more)) = &message.payload else { return false };
    let Some(peer_message::Payload::Candidates(last)) = &mut last.payload else { return false };
    let IceCandidates { candidates, end_of_candidates, username_fragment } = more;
    if last.end_of_candidates || last.username_fragment != *username_fragment {
        return false;
    }
    last.candidates.extend(candidates.iter().cloned());
    last.end_of_candidates = *end_of_candidates;
    true
}

#[cfg(test)]
mod tests {
    use farcall_proto::signaling::v1::IceCandidate;
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> PeerMessage {
        PeerMessage {
            to_session_id: "b".into(),
            payload: Some(peer_message::Payload::Text(text.into())),
            ..PeerMessage::default()
        }
    }

    fn candidates(names: &[&str], end: bool) -> PeerMessage {
        let candidates = names
            .iter()
            .map(|name| IceCandidate { candidate: (*name).to_owned(), ..IceCandidate::default() })
            .collect();
        let batch = IceCandidates { candidates, end_of_candidates: end, username_fragment: "u".into() };
        PeerMessage {
            to_session_id: "b".into(),
            payload: Some(peer_message::Payload::Candidates(batch)),
            ..PeerMessage::default()
        }
    }

    fn numbers(frames: &[ClientFrame]) -> Vec<u64> {
        frames.iter().map(|frame| frame.client_seq).collect()
    }

    #[test]
    fn what_was_not_taken_is_sent_again_under_the_same_numbers() {
        let mut outbox = Outbox::default();
        for word in ["a", "b", "c"] {
            outbox.push(text(word));
        }
        assert_eq!(numbers(&outbox.batch(10)), [1, 2, 3]);
        outbox.answered(2);
        assert_eq!(numbers(&outbox.batch(10)), [3]);
        outbox.failed();
        outbox.push(text("d"));
        assert_eq!(numbers(&outbox.batch(10)), [3, 4]);
    }

    #[test]
    fn candidates_found_together_travel_together() {
        let mut outbox = Outbox::default();
        outbox.push(text("offer"));
        outbox.push(candidates(&["1"], false));
        outbox.push(candidates(&["2"], false));
        outbox.push(candidates(&[], true));
        outbox.push(candidates(&["late"], false));
        let frames = outbox.batch(10);
        assert_eq!(numbers(&frames), [1, 2, 3]);
        let Some(client_frame::Body::Message(message)) = &frames[1].body else { panic!("{frames:?}") };
        assert_eq!(message, &candidates(&["1", "2"], true));
    }

    #[test]
    fn candidates_do_not_join_a_frame_that_is_under_way() {
        let mut outbox = Outbox::default();
        outbox.push(candidates(&["1"], false));
        assert_eq!(outbox.batch(10).len(), 1);
        outbox.push(candidates(&["2"], false));
        outbox.answered(1);
        assert_eq!(numbers(&outbox.batch(10)), [2]);
    }

    #[test]
    fn a_new_session_numbers_from_one_and_forgets_what_was_for_others() {
        let mut outbox = Outbox::default();
        outbox.push(text("for b"));
        outbox.push(PeerMessage { to_session_id: "c".into(), ..text("for c") });
        assert_eq!(outbox.batch(10).len(), 2);
        outbox.restart(|session| session == "c");
        let frames = outbox.batch(10);
        let Some(client_frame::Body::Message(message)) = &frames[0].body else { panic!("{frames:?}") };
        assert_eq!((numbers(&frames), message.to_session_id.as_str()), (vec![1], "c"));
    }

    #[test]
    fn a_frame_that_is_refused_gives_its_number_to_the_next() {
        let mut outbox = Outbox::default();
        outbox.push(text("bad"));
        outbox.push(text("good"));
        assert_eq!(outbox.batch(1).len(), 1);
        assert_eq!(outbox.refuse_first(), Some(text("bad")));
        let frames = outbox.batch(1);
        let Some(client_frame::Body::Message(message)) = &frames[0].body else { panic!("{frames:?}") };
        assert_eq!((numbers(&frames), message), (vec![1], &text("good")));
    }

    proptest! {
        /// A server that takes what it has not seen sees every message once and in order, whatever gets lost.
        #[test]
        fn every_message_is_taken_once_and_in_order(steps in prop::collection::vec(0u8..4, 1..200)) {
            let mut outbox = Outbox::default();
            let (mut pushed, mut taken) = (0u32, Vec::new());
            let mut last = 0;
            let mut call = |outbox: &mut Outbox, answer_arrives: bool| {
                for frame in outbox.batch(3) {
                    prop_assert!(frame.client_seq <= last + 1, "a gap");
                    if frame.client_seq == last + 1 {
                        last += 1;
                        taken.push(frame);
                    }
                }
                if answer_arrives { outbox.answered(last) } else { outbox.failed() }
                Ok(())
            };
            for step in steps {
                match step {
                    0 | 1 => { outbox.push(text(&pushed.to_string())); pushed += 1; }
                    2 => call(&mut outbox, true)?,
                    _ => call(&mut outbox, false)?,
                }
            }
            while !outbox.is_empty() { call(&mut outbox, true)?; }
            let said: Vec<_> = taken.into_iter().map(|frame| match frame.body {
                Some(client_frame::Body::Message(message)) => message,
                None => PeerMessage::default(),
            }).collect();
            let expected: Vec<_> = (0..pushed).map(|number| text(&number.to_string())).collect();
            prop_assert_eq!(said, expected);
        }
    }
}
