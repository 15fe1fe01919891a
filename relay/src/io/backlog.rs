//! What a stream client has not taken yet.
//!
//! Media that comes late is worth less than media that comes now, so when a client reads too slowly the oldest
//! relayed frames go: those that have waited for longer than anybody wants to wait. Responses never go, and a frame of
//! which a part is out stays whole.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Whether somebody waits for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A response.
    Expected,
    /// Relayed data.
    Droppable,
}

/// Frames in order, bounded in time, and in bytes lest time be not enough.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// How much of the first frame is out.
    written: usize,
}

#[derive(Debug)]
struct Frame {
    urgency: Urgency,
    since: Instant,
    bytes: Box<[u8]>,
}

/// What came of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flushed {
    /// Whether anything went out.
    pub(super) has_progress: bool,
    /// Frames that had waited for too long.
    pub(super) dropped: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Writes a frame, or keeps what does not go out now. Returns how many frames had to go for it.
    pub(super) fn write(
        &mut self,
        sink: &mut impl Write,
        now: Instant,
        frame: &[u8],
        urgency: Urgency,
    ) -> io::Result<usize> {
        let written = if self.is_empty() { write_some(sink, frame)? } else { 0 };
        if written == frame.len() {
            return Ok(0);
        }
        if self.is_empty() {
            self.written = written;
        }
        self.bytes += frame.len();
        self.frames.push_back(Frame { urgency, since: now, bytes: frame.into() });
        Ok(self.drop_stale(now))
    }

    /// Writes what is left and not too old, as far as it goes.
    pub(super) fn flush(&mut self, sink: &mut impl Write, now: Instant) -> io::Result<Flushed> {
        let dropped = self.drop_stale(now);
        let mut has_progress = false;
        while let Some(Frame { bytes, .. }) = self.frames.front() {
            let rest = bytes.get(self.written..).unwrap_or_default();
            let written = write_some(sink, rest)?;
            has_progress |= written > 0;
            if written < rest.len() {
                self.written += written;
                break;
            }
            self.bytes -= bytes.len();
            self.written = 0;
            self.frames.pop_front();
        }
        Ok(Flushed { has_progress, dropped })
    }

    /// Drops the oldest relayed frames until both bounds hold, or only what must stay is left. Returns how many.
    pub(super) fn drop_stale(&mut self, now: Instant) -> usize {
        let begun = usize::from(self.written > 0);
        let mut dropped = 0;
        loop {
            let mut waiting = self.frames.iter().enumerate().skip(begun);
            let oldest = waiting.find(|(_, frame)| frame.urgency == Urgency::Droppable);
            let Some((at, frame)) = oldest else { break };
            let is_stale = now.saturating_duration_since(frame.since) > MAX_AGE;
            if !is_stale && self.bytes <= MAX_BYTES {
                break;
            }
            self.bytes -= frame.bytes.len();
            self.frames.remove(at);
            dropped += 1;
        }
        dropped
    }

    /// Takes out all that waits.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let all = self.frames.iter().flat_map(|frame| frame.bytes.iter().copied());
        all.skip(self.written).collect()
    }

    /// Whether responses alone exceed the bound: the client asks and does not listen.
    pub(super) fn is_hopeless(&self) -> bool {
        self.bytes > 2 * MAX_BYTES
    }
}

/// Like `write`, with nothing written where it would have to wait.
fn write_some(sink: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match sink.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// For how long a frame may wait: about as long as a player can bridge.
const MAX_AGE: Duration = Duration::from_millis(200);
/// What forty megabits a second make of that.
const MAX_BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Takes `room` bytes and then makes one wait.
    #[derive(Default)]
    struct Sink {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn frames_come_out_whole_and_in_order_however_they_are_taken() {
        let now = clock::now();
        let mut sink = Sink { room: 3, ..Sink::default() };
        let mut backlog = Backlog::default();
        for frame in [&b"first"[..], b"second", b"third"] {
            assert_eq!(backlog.write(&mut sink, now, frame, Urgency::Droppable).unwrap(), 0);
        }
        while !backlog.is_empty() {
            sink.room = 2;
            let flushed = backlog.flush(&mut sink, now).unwrap();
            assert_eq!(flushed, Flushed { has_progress: true, dropped: 0 });
        }
        assert_eq!(sink.taken, b"firstsecondthird");
        assert_eq!(backlog.bytes, 0);
    }

    #[test]
    fn what_waited_too_long_goes_but_neither_responses_nor_a_frame_that_is_half_out() {
        let start = clock::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut sink = Sink { room: 1, ..Sink::default() };
        let mut backlog = Backlog::default();
        for (milliseconds, frame, urgency) in [
            (0, b"begun", Urgency::Droppable),
            (10, b"reply", Urgency::Expected),
            (20, b"older", Urgency::Droppable),
            (100, b"newer", Urgency::Droppable),
        ] {
            assert_eq!(backlog.write(&mut sink, at(milliseconds), frame, urgency).unwrap(), 0);
        }
        assert_eq!(backlog.drop_stale(at(220)), 0, "two hundred milliseconds are not too long");
        assert_eq!(backlog.write(&mut sink, at(221), b"later", Urgency::Droppable).unwrap(), 1);
        sink.room = usize::MAX;
        let flushed = backlog.flush(&mut sink, at(301)).unwrap();
        assert_eq!(flushed, Flushed { has_progress: true, dropped: 1 });
        assert_eq!(sink.taken, b"begunreplylater");
        assert!(backlog.is_empty() && backlog.bytes == 0);
    }

    #[test]
    fn a_burst_is_bounded_in_bytes_and_its_oldest_goes() {
        let now = clock::now();
        let mut sink = Sink::default();
        let mut backlog = Backlog::default();
        let frame = |fill: u8| vec![fill; MAX_BYTES / 4];
        let dropped: usize = (1..=6)
            .map(|fill| backlog.write(&mut sink, now, &frame(fill), Urgency::Droppable).unwrap())
            .sum();
        assert_eq!((dropped, backlog.bytes), (2, MAX_BYTES));
        sink.room = usize::MAX;
        backlog.flush(&mut sink, now).unwrap();
        let mut order = sink.taken;
        order.dedup();
        assert_eq!(order, [3, 4, 5, 6]);
    }

    #[test]
    fn one_that_asks_and_does_not_listen_is_hopeless() {
        let now = clock::now();
        let mut sink = Sink::default();
        let mut backlog = Backlog::default();
        for _ in 0..9 {
            assert!(!backlog.is_hopeless());
            backlog.write(&mut sink, now, &vec![0; MAX_BYTES / 4], Urgency::Expected).unwrap();
        }
        assert!(backlog.is_hopeless());
    }
}
