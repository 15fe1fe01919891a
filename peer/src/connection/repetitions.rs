//! Keeps what is sent again within what the line carries.
//!
//! The engine's responder sends whatever the other side misses, as often as it is asked. On a line that has become too
//! narrow everything is missed: at 300 kbit/s 900 kbit/s of media became 16 Mbit/s of repetitions, and nothing else
//! came through. So repetitions have a share of the estimate, and none is sent again before its answer could be here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtc::interceptor::{Interceptor, Packet, StreamInfo, TaggedPacket};
use rtc::sansio::Protocol;
use webrtc::error::{Error, Result};

use super::bandwidth::Feedback;

/// See the module.
pub(super) struct Repetitions {
    feedback: Arc<Feedback>,
    /// By synchronization source.
    streams: BTreeMap<u32, Stream>,
    /// Bits that may be sent again now.
    credit: u64,
    filled: Option<Instant>,
    incoming: VecDeque<TaggedPacket>,
    outgoing: VecDeque<TaggedPacket>,
}

#[derive(Default)]
struct Stream {
    newest: Option<u16>,
    /// What still is of use, and when it went first, oldest first.
    sent: VecDeque<(u16, Instant)>,
    /// When which number was sent again last, oldest first.
    repeated: VecDeque<(u16, Instant)>,
}

impl Repetitions {
    pub(super) fn new(feedback: Arc<Feedback>) -> Self {
        Self {
            feedback,
            streams: BTreeMap::new(),
            credit: BURST_BITS,
            filled: None,
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
        }
    }

    /// Whether a packet may go: all may but repetitions for which there is no room.
    fn admits(&mut self, now: Instant, source: u32, number: u16, bits: u64) -> bool {
        let stream = self.streams.entry(source).or_default();
        let is_new =
            stream.newest.is_none_or(|newest| number.wrapping_sub(newest).wrapping_sub(1) < u16::MAX / 2);
        if is_new {
            stream.newest = Some(number);
            stream.sent.push_back((number, now));
            stream.forget(now);
            return true;
        }
        stream.forget(now);
        if !stream.sent.iter().any(|(sent, _)| *sent == number) {
            return false;
        }
        if stream.repeated.iter().any(|(repeated, _)| *repeated == number) {
            return false;
        }
        let rate = self.feedback.bandwidth.available().unwrap_or(UNKNOWN_BITS) / SHARE;
        let passed = now.saturating_duration_since(self.filled.unwrap_or(now));
        self.filled = Some(now);
        let more = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX).saturating_mul(rate) / 1_000_000;
        self.credit = self.credit.saturating_add(more).min(BURST_BITS);
        let Some(left) = self.credit.checked_sub(bits) else { return false };
        self.credit = left;
        if let Some(stream) = self.streams.get_mut(&source) {
            stream.repeated.push_back((number, now));
        }
        true
    }
}

impl Stream {
    fn forget(&mut self, now: Instant) {
        for (queue, lifetime) in [(&mut self.sent, USEFUL), (&mut self.repeated, ANSWER)] {
            while queue.front().is_some_and(|(_, at)| now.saturating_duration_since(*at) >= lifetime) {
                queue.pop_front();
            }
        }
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for Repetitions {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, message: TaggedPacket) -> Result<()> {
        self.incoming.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.incoming.pop_front()
    }

    fn handle_write(&mut self, message: TaggedPacket) -> Result<()> {
        if let Packet::Rtp(packet) = &message.message.packet {
            let bits = 8 * (packet.payload.len() as u64 + FRAMING);
            let (source, number) = (packet.header.ssrc, packet.header.sequence_number);
            if !self.admits(message.now, source, number, bits) {
                return Ok(());
            }
        }
        self.outgoing.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.outgoing.pop_front()
    }

    fn handle_timeout(&mut self, _now: Instant) -> Result<()> {
        Ok(())
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        None
    }
}

impl Interceptor for Repetitions {
    fn bind_local_stream(&mut self, _info: &StreamInfo) {}

    fn unbind_local_stream(&mut self, info: &StreamInfo) {
        self.streams.remove(&info.ssrc);
    }

    fn bind_remote_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _info: &StreamInfo) {}
}

/// Between the engine's responder and what numbers and counts all that leaves.
pub(super) const SLOT: usize = 3_500;
/// Repetitions may take a quarter.
const SHARE: u64 = 4;
/// Where nothing is known of the line, in bits per second.
const UNKNOWN_BITS: u64 = 1_000_000;
/// After a pause.
const BURST_BITS: u64 = 200_000;
/// What stands before the payload: RTP and its extensions, SRTP, UDP, IP.
const FRAMING: u64 = 66;
/// A picture that waits for longer has been given up.
const USEFUL: Duration = Duration::from_secs(1);
/// Whoever asks again sooner has not seen the answer yet.
const ANSWER: Duration = Duration::from_millis(150);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const PACKET: u64 = 10_000;

    #[test]
    fn new_packets_go_whatever_their_number_and_repetitions_as_long_as_there_is_room() {
        let (mut repetitions, now) = (Repetitions::new(Arc::default()), clock::now());
        for number in (u16::MAX - 50..=u16::MAX).chain(0..50) {
            assert!(repetitions.admits(now, 7, number, PACKET));
        }
        let sent = (0..50).filter(|number| repetitions.admits(now, 7, *number, PACKET)).count();
        assert_eq!(sent, 20, "a burst of 200 000 bits");
        let later = now + Duration::from_millis(900);
        let sent = (0..49).filter(|number| repetitions.admits(later, 7, *number, PACKET)).count();
        assert_eq!(sent, 20, "a quarter of a megabit has come in, and the burst is full");
        assert!(repetitions.admits(later, 7, 50, PACKET), "the next one is new");
        assert!(repetitions.admits(later, 8, 9, PACKET), "another source");
    }

    #[test]
    fn what_was_just_repeated_is_not_repeated_again() {
        let (mut repetitions, now) = (Repetitions::new(Arc::default()), clock::now());
        assert!(repetitions.admits(now, 7, 1, PACKET) && repetitions.admits(now, 7, 2, PACKET));
        let at = |milliseconds| now + Duration::from_millis(milliseconds);
        assert!(repetitions.admits(at(50), 7, 1, PACKET));
        assert!(!repetitions.admits(at(150), 7, 1, PACKET));
        assert!(repetitions.admits(at(201), 7, 1, PACKET));
    }

    #[test]
    fn what_no_picture_waits_for_any_more_is_not_repeated() {
        let (mut repetitions, now) = (Repetitions::new(Arc::default()), clock::now());
        for number in 0..100 {
            assert!(repetitions.admits(now, 7, number, PACKET));
        }
        let later = now + Duration::from_millis(900);
        assert!(repetitions.admits(later, 7, 100, PACKET));
        let late = now + Duration::from_millis(1001);
        assert!((0..100).all(|number| !repetitions.admits(late, 7, number, PACKET)));
        assert!(repetitions.admits(late, 7, 100, PACKET), "and it takes no room from what is");
    }
}
