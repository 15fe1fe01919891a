//! What a stream client has not taken yet.
//!
//! Media that comes late is worth less than media that comes now, so when a client reads too slowly the oldest
//! relayed frames go. Responses never go, and a frame of which a part is out stays whole.

use std::collections::VecDeque;
use std::io::{self, Write};

/// Whether somebody waits for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A response.
    Expected,
    /// Relayed data.
    Droppable,
}

/// Frames in order, bounded in bytes.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    frames: VecDeque<(Urgency, Box<[u8]>)>,
    bytes: usize,
    /// How much of the first frame is out.
    written: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Writes a frame, or keeps what does not go out now. Returns how many frames had to go for it.
    pub(super) fn write(
        &mut self,
        sink: &mut impl Write,
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
        self.frames.push_back((urgency, frame.into()));
        Ok(self.shrink())
    }

    /// Writes what is left, as far as it goes. Says whether any of it went.
    pub(super) fn flush(&mut self, sink: &mut impl Write) -> io::Result<bool> {
        let mut has_progress = false;
        while let Some((_, frame)) = self.frames.front() {
            let rest = frame.get(self.written..).unwrap_or_default();
            let written = write_some(sink, rest)?;
            has_progress |= written > 0;
            if written < rest.len() {
                self.written += written;
                break;
            }
            self.bytes -= frame.len();
            self.written = 0;
            self.frames.pop_front();
        }
        Ok(has_progress)
    }

    /// Drops the oldest relayed frames until the bound holds, or only what must stay is left.
    fn shrink(&mut self) -> usize {
        let mut dropped = 0;
        while self.bytes > MAX_BYTES {
            let begun = usize::from(self.written > 0);
            let oldest =
                self.frames.iter().skip(begun).position(|(urgency, _)| *urgency == Urgency::Droppable);
            let Some((_, frame)) = oldest.and_then(|at| self.frames.remove(begun + at)) else { break };
            self.bytes -= frame.len();
            dropped += 1;
        }
        dropped
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

/// A few hundred milliseconds of video.
const MAX_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut sink = Sink { room: 3, ..Sink::default() };
        let mut backlog = Backlog::default();
        for frame in [&b"first"[..], b"second", b"third"] {
            assert_eq!(backlog.write(&mut sink, frame, Urgency::Droppable).unwrap(), 0);
        }
        while !backlog.is_empty() {
            sink.room = 2;
            assert!(backlog.flush(&mut sink).unwrap());
        }
        assert_eq!(sink.taken, b"firstsecondthird");
        assert_eq!(backlog.bytes, 0);
    }

    #[test]
    fn the_oldest_data_goes_but_neither_responses_nor_a_frame_that_is_half_out() {
        let mut sink = Sink { room: 1, ..Sink::default() };
        let mut backlog = Backlog::default();
        let frame = |fill: u8| vec![fill; MAX_BYTES / 4];
        backlog.write(&mut sink, &frame(1), Urgency::Droppable).unwrap();
        backlog.write(&mut sink, &frame(2), Urgency::Expected).unwrap();
        let dropped: usize =
            (3..=8).map(|fill| backlog.write(&mut sink, &frame(fill), Urgency::Droppable).unwrap()).sum();
        assert_eq!(dropped, 4);
        sink.room = usize::MAX;
        backlog.flush(&mut sink).unwrap();
        let mut order = sink.taken.clone();
        order.dedup();
        assert_eq!(order, [1, 2, 7, 8]);
        assert_eq!(sink.taken.len(), MAX_BYTES);
    }

    #[test]
    fn one_that_asks_and_does_not_listen_is_hopeless() {
        let mut sink = Sink::default();
        let mut backlog = Backlog::default();
        for _ in 0..9 {
            assert!(!backlog.is_hopeless());
            backlog.write(&mut sink, &vec![0; MAX_BYTES / 4], Urgency::Expected).unwrap();
        }
        assert!(backlog.is_hopeless());
    }
}
