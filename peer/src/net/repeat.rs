//! Repeats the last datagrams of DTLS when nothing comes back.
//!
//! What is lost at the end of a burst, be it a flight of a handshake or the last piece of a message, is sent again by
//! DTLS and SCTP of rtc 0.21.1 after a second, then two, then four (RFC 6347, section 4.2.4.1; RFC 9260, RTO.Min), and
//! neither has a setting. On a line that loses one datagram in ten a connection takes many seconds to open that way,
//! or never does. A network may deliver a datagram twice, and whoever speaks DTLS drops the second (RFC 6347, section
//! 4.1.2.6). So the end that hears nothing sends its last datagrams as they were, after a few round trips; whichever
//! is new to the other side brings an answer, and the protocols above never notice.
//!
//! The round trip is that of ICE's own checks on the same path.

use std::collections::VecDeque;
use std::future::Future as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::stun::{self, Check};

/// Of one socket. Sans-IO: told of every datagram, asked for what to repeat.
#[derive(Debug, Default)]
pub(super) struct Repeater {
    /// What the other side has not been heard after, oldest first.
    last: VecDeque<Sent>,
    due: Option<Instant>,
    /// Epoch and sequence number of the newest record that came.
    heard: u64,
    /// How often the last ones were repeated.
    round: u32,
    /// Checks without an answer, oldest first.
    asked: VecDeque<(SocketAddr, [u8; 12], Instant)>,
    /// Of the last check that was answered, by the address that it went to; newest last.
    round_trips: VecDeque<(SocketAddr, Duration)>,
}

#[derive(Debug)]
pub(super) struct Sent {
    pub(super) to: SocketAddr,
    pub(super) datagram: Vec<u8>,
    at: Instant,
}

impl Repeater {
    /// A datagram leaves.
    pub(super) fn sent(&mut self, now: Instant, to: SocketAddr, datagram: &[u8]) {
        let said = stun::between_the_ends(datagram);
        if let Some(Check::Request(transaction)) = stun::check(said) {
            bounded(&mut self.asked, (to, transaction, now), MOST_CHECKS);
        }
        let Some(wait) = self.wait(to, said) else { return };
        // The oldest gives its memory to the newest.
        let mut kept = if self.last.len() < MOST_REPEATED { None } else { self.last.pop_front() }
            .map_or_else(Vec::new, |oldest| oldest.datagram);
        kept.clear();
        kept.extend_from_slice(datagram);
        self.last.push_back(Sent { to, datagram: kept, at: now });
        self.round = 0;
        self.due = Some(now + wait);
    }

    /// A datagram came.
    pub(super) fn received(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let said = stun::between_the_ends(datagram);
        if let Some(Check::Success(answered)) = stun::check(said) {
            let asked =
                self.asked.iter().position(|(to, transaction, _)| *to == from && *transaction == answered);
            if let Some((_, _, at)) = asked.and_then(|asked| self.asked.remove(asked)) {
                self.round_trips.retain(|(to, _)| *to != from);
                bounded(&mut self.round_trips, (from, now.saturating_duration_since(at)), MOST_PATHS);
            }
        }
        // What the other side repeats answers nothing.
        let Some(record) = kind(said).and_then(|_| number(said)).filter(|record| *record > self.heard) else {
            return;
        };
        self.heard = record;
        // What was under way when this was sent may be lost yet.
        let round_trip = self.round_trip(from).unwrap_or_default();
        while self.last.front().is_some_and(|sent| sent.at + round_trip <= now) {
            self.last.pop_front();
        }
        if self.last.is_empty() {
            self.due = None;
        }
    }

    /// What the other side has not been heard after, as one end says it to the other; it is not repeated any more.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        self.due = None;
        self.last.drain(..).map(|sent| stun::between_the_ends(&sent.datagram).to_vec()).collect()
    }

    /// When [`Repeater::poll`] is to be asked next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// What to send again now; it is not to be reported by [`Repeater::sent`].
    pub(super) fn poll(&mut self, now: Instant) -> impl Iterator<Item = &Sent> {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.round += 1;
            let wait =
                self.last.back().and_then(|sent| self.wait(sent.to, stun::between_the_ends(&sent.datagram)));
            self.due = wait
                .filter(|_| self.round < ROUNDS)
                .map(|wait| now + wait * 2_u32.saturating_pow(self.round));
        }
        self.last.iter().filter(move |_| is_due)
    }

    /// How long an answer may take; nothing for what is not ours to repeat.
    fn wait(&self, to: SocketAddr, said: &[u8]) -> Option<Duration> {
        let (unknown, slack) = match kind(said)? {
            Kind::Handshake => (HANDSHAKE_UNKNOWN, HANDSHAKE_SLACK),
            Kind::Data => (DATA_UNKNOWN, DATA_SLACK),
        };
        Some(self.round_trip(to).map_or(unknown, |round_trip| round_trip * 2 + slack))
    }

    fn round_trip(&self, of: SocketAddr) -> Option<Duration> {
        self.round_trips.iter().find(|(to, _)| *to == of).map(|(_, round_trip)| *round_trip)
    }
}

/// Wakes whoever reads the socket when something is to be repeated.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    /// When `sleep` ends.
    set_for: Option<Instant>,
    /// Who reads.
    reader: Option<Waker>,
}

impl Alarm {
    /// Something is due: no later than then the reader comes.
    pub(super) fn sound_by(&mut self, due: Option<Instant>) {
        // It rings too early rather than being put off with every datagram.
        if due.is_some_and(|due| self.set_for.is_none_or(|set_for| due < set_for))
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
    }

    /// The reader is here, and will be waked when this is due.
    pub(super) fn set(&mut self, due: Option<Instant>, cx: &mut Context<'_>) {
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
        self.set_for = due;
        let Some(due) = due else { return };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due.into())));
        if sleep.deadline() != due.into() {
            sleep.as_mut().reset(due.into());
        }
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

enum Kind {
    Handshake,
    Data,
}

/// By the type of the first record, RFC 7983 and RFC 6347.
fn kind(said: &[u8]) -> Option<Kind> {
    match said.first()? {
        20 | 22 => Some(Kind::Handshake),
        23 => Some(Kind::Data),
        _ => None,
    }
}

/// Epoch and sequence number of the first record, RFC 6347 section 4.1, which grow with every record sent.
fn number(said: &[u8]) -> Option<u64> {
    // One more, so that the very first is more than none.
    Some(u64::from_be_bytes(said.get(3..11)?.try_into().ok()?).saturating_add(1))
}

fn bounded<T>(queue: &mut VecDeque<T>, item: T, most: usize) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(item);
}

/// A flight of a handshake is at most as many, and so is a burst that two SACKs end.
const MOST_REPEATED: usize = 8;
/// Then it is the protocols' turn again, whose first attempt comes at a second.
const ROUNDS: u32 = 2;
/// Certificates are made and verified meanwhile.
const HANDSHAKE_SLACK: Duration = Duration::from_millis(50);
/// A lone datagram is acknowledged after up to 200 ms, RFC 9260 section 6.2.
const DATA_SLACK: Duration = Duration::from_millis(230);
const HANDSHAKE_UNKNOWN: Duration = Duration::from_millis(200);
const DATA_UNKNOWN: Duration = Duration::from_millis(500);
const MOST_CHECKS: usize = 32;
const MOST_PATHS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const FLIGHT: &[u8] = &[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0];
    const MORE: &[u8] = &[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 1];
    const DATA: &[u8] = &[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 0];
    const MEDIA: &[u8] = &[0x80, 96, 0, 1];

    fn path() -> SocketAddr {
        "192.0.2.1:9".parse().unwrap()
    }

    fn milliseconds(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// A repeater that knows how long the way is, and the time.
    fn after_checks(round_trip: Duration) -> (Repeater, Instant) {
        let (mut repeater, start) = (Repeater::default(), clock::now());
        let message = |kind: u8| [&[kind, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], b"transaction!"].concat();
        repeater.sent(start, path(), &message(0));
        repeater.received(start + round_trip, path(), &message(1));
        (repeater, start + round_trip)
    }

    fn repeated(repeater: &mut Repeater, now: Instant) -> Vec<Vec<u8>> {
        repeater.poll(now).map(|sent| sent.datagram.clone()).collect()
    }

    #[test]
    fn a_flight_without_an_answer_is_repeated_after_two_round_trips_and_some_and_then_given_up() {
        let (mut repeater, now) = after_checks(milliseconds(40));
        repeater.sent(now, path(), FLIGHT);
        repeater.sent(now, path(), MORE);
        assert!(repeated(&mut repeater, now + milliseconds(129)).is_empty());
        let mut times = Vec::new();
        while let Some(due) = repeater.poll_timeout() {
            assert_eq!(repeated(&mut repeater, due), [FLIGHT, MORE]);
            times.push((due - now).as_millis());
        }
        assert_eq!(times, [130, 390]);
        assert!(repeated(&mut repeater, now + milliseconds(9999)).is_empty());
    }

    #[test]
    fn an_answer_ends_it_and_what_was_sent_before_the_answer_could_come_stays() {
        let (mut repeater, now) = after_checks(milliseconds(40));
        repeater.sent(now, path(), FLIGHT);
        repeater.received(now + milliseconds(40), path(), MORE);
        assert_eq!(repeater.poll_timeout(), None);
        let again = now + milliseconds(100);
        repeater.sent(again, path(), DATA);
        repeater.received(again + milliseconds(39), path(), DATA);
        assert_eq!(repeated(&mut repeater, again + milliseconds(310)), [DATA]);
    }

    #[test]
    fn what_has_no_answer_can_be_taken_without_its_frame_and_is_not_repeated_then() {
        let (mut repeater, now) = after_checks(milliseconds(40));
        repeater.sent(now, path(), FLIGHT);
        repeater.sent(now, path(), &[&b"\x40\x01\x00\x0b"[..], DATA].concat());
        assert_eq!(repeater.take(), [FLIGHT, DATA]);
        assert_eq!((repeater.poll_timeout(), repeater.take()), (None, vec![]));
    }

    #[test]
    fn what_the_other_side_repeats_is_no_answer() {
        let (mut repeater, now) = after_checks(milliseconds(40));
        repeater.received(now, path(), FLIGHT);
        repeater.sent(now, path(), MORE);
        repeater.received(now + milliseconds(90), path(), FLIGHT);
        assert_eq!(repeated(&mut repeater, now + milliseconds(130)), [MORE]);
    }

    #[test]
    fn media_and_checks_are_neither_repeated_nor_an_answer() {
        let (mut repeater, now) = after_checks(milliseconds(40));
        repeater.sent(now, path(), MEDIA);
        assert_eq!(repeater.poll_timeout(), None);
        repeater.sent(now, path(), FLIGHT);
        repeater.received(now + milliseconds(60), path(), MEDIA);
        assert_eq!(repeated(&mut repeater, now + milliseconds(130)), [FLIGHT]);
    }

    #[test]
    fn what_goes_through_a_relay_is_repeated_as_it_was_framed() {
        let mut repeater = Repeater::default();
        let (now, framed) = (clock::now(), [&[0x40, 1, 0, 11], FLIGHT].concat());
        repeater.sent(now, path(), &framed);
        assert_eq!(repeated(&mut repeater, now + HANDSHAKE_UNKNOWN), [framed]);
    }

    #[test]
    fn only_the_last_of_a_long_burst_are_kept() {
        let (mut repeater, now) = after_checks(milliseconds(40));
        for number in 0..40 {
            repeater.sent(now, path(), &[23, number]);
        }
        let expected: Vec<Vec<u8>> = (32..40).map(|number| vec![23, number]).collect();
        assert_eq!(repeated(&mut repeater, now + milliseconds(400)), expected);
    }

    #[tokio::test]
    async fn the_reader_is_woken_when_something_becomes_due_that_was_not_when_it_came() {
        let mut alarm = Alarm::default();
        let mut visits = 0;
        let due = clock::now() + milliseconds(30);
        let reading = std::future::poll_fn(|cx| {
            visits += 1;
            match visits {
                1 => alarm.set(None, cx),
                2 => alarm.set(Some(due), cx),
                _ => return std::task::Poll::Ready(clock::now()),
            }
            // As a sender on the same task would.
            if visits == 1 {
                alarm.sound_by(Some(due));
            }
            std::task::Poll::Pending
        });
        let woken = tokio::time::timeout(milliseconds(10_000), reading).await.unwrap();
        assert!(woken >= due);
    }
}
