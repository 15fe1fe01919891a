//! The bytes between a client's stream and a peer's connection, both ways, each way at the pace of its slower end.
//!
//! Nothing is dropped and nothing waits here but what one read brought: whoever does not take what there is keeps the
//! other from sending more. When one end has said all, the other is told so and may go on talking.

use std::io::{self, Read, Write};

/// Where bytes go, up to an end of which it can be told.
pub(super) trait End: Write {
    /// Says that nothing more comes. `WouldBlock` if that must wait.
    fn finish(&mut self) -> io::Result<()>;
}

/// How far it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There may be more.
    MaybeMore,
    /// Until one end has or takes more.
    Blocked,
    /// Until its user may relay more.
    Throttled,
    /// All is said and told.
    Over,
}

/// One way.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// What was read and not taken yet.
    waiting: Vec<u8>,
    /// How much of it is out.
    written: usize,
    /// How much of it is still to be counted against its user.
    unpaid: usize,
    is_source_over: bool,
    is_over: bool,
}

impl Pipe {
    /// One that begins with these bytes, of which the last `unpaid` count.
    pub(super) fn beginning_with(waiting: Vec<u8>, unpaid: usize) -> Self {
        Self { waiting, unpaid, ..Self::default() }
    }

    /// Carries what there is and what is taken, as far as `pay` lets it.
    pub(super) fn carry(
        &mut self,
        from: &mut impl Read,
        to: &mut impl End,
        buffer: &mut [u8],
        mut pay: impl FnMut(usize) -> bool,
    ) -> io::Result<Progress> {
        for _ in 0..READS {
            if self.is_over {
                return Ok(Progress::Over);
            }
            if self.unpaid > 0 && !pay(self.unpaid) {
                return Ok(Progress::Throttled);
            }
            self.unpaid = 0;
            let rest = self.waiting.get(self.written..).unwrap_or_default();
            let (written, is_blocked) = write_some(to, rest)?;
            self.written += written;
            if is_blocked {
                return Ok(Progress::Blocked);
            }
            // An idle connection should not cost what its busiest moment did.
            (self.waiting, self.written) = (Vec::new(), 0);
            if self.is_source_over {
                match to.finish() {
                    Ok(()) => {
                        self.is_over = true;
                        return Ok(Progress::Over);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked),
                    Err(error) => return Err(error),
                }
            }
            match from.read(buffer) {
                Ok(0) => self.is_source_over = true,
                Ok(count) => self.take(buffer.get(..count).unwrap_or_default(), to, &mut pay)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Progress::Blocked),
                Err(error) => return Err(error),
            }
        }
        Ok(Progress::MaybeMore)
    }

    /// Most of the time it goes out at once.
    fn take(
        &mut self,
        bytes: &[u8],
        to: &mut impl Write,
        pay: &mut impl FnMut(usize) -> bool,
    ) -> io::Result<()> {
        if !pay(bytes.len()) {
            self.waiting.extend_from_slice(bytes);
            self.unpaid = bytes.len();
            return Ok(());
        }
        let (written, _) = write_some(to, bytes)?;
        self.waiting.extend_from_slice(bytes.get(written..).unwrap_or_default());
        Ok(())
    }
}

/// Writes as far as it goes. Says how much that was, and whether the rest must wait.
fn write_some(to: &mut impl Write, bytes: &[u8]) -> io::Result<(usize, bool)> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match to.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((written, true)),
            Err(error) => return Err(error),
        }
    }
    // What is inside TLS may still be on its way out.
    to.flush()?;
    Ok((written, false))
}

/// What both ways together come to.
pub(super) fn both(one: Progress, other: Progress) -> Progress {
    use Progress::{Blocked, MaybeMore, Over, Throttled};
    match (one, other) {
        (Over, Over) => Over,
        (MaybeMore, _) | (_, MaybeMore) => MaybeMore,
        (Throttled, _) | (_, Throttled) => Throttled,
        (Blocked | Over, Blocked | Over) => Blocked,
    }
}

/// Reads at one turn, to be fair to other connections.
const READS: usize = 16;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// What a socket does next: so many bytes, or none for now.
    type Script = VecDeque<usize>;

    struct Source {
        bytes: VecDeque<u8>,
        script: Script,
    }

    impl Read for Source {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.script.pop_front().unwrap_or(buffer.len());
            if most == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let most = most.min(buffer.len());
            self.bytes.read(&mut buffer[..most])
        }
    }

    #[derive(Default)]
    struct Sink {
        bytes: Vec<u8>,
        script: Script,
        is_finished: bool,
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            assert!(!self.is_finished, "written after the end");
            let most = self.script.pop_front().unwrap_or(bytes.len()).min(bytes.len());
            if most == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.bytes.extend(&bytes[..most]);
            Ok(most)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl End for Sink {
        fn finish(&mut self) -> io::Result<()> {
            self.is_finished = true;
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn every_byte_arrives_once_in_order_and_then_the_end(
            begin in prop::collection::vec(any::<u8>(), 0..100),
            bytes in prop::collection::vec(any::<u8>(), 0..2000),
            reads in prop::collection::vec(0usize..300, 0..60),
            writes in prop::collection::vec(0usize..300, 0..60),
            pays in prop::collection::vec(any::<bool>(), 0..40),
        ) {
            let mut source = Source { bytes: bytes.clone().into(), script: reads.into() };
            let mut sink = Sink { script: writes.into(), ..Sink::default() };
            let mut pipe = Pipe::beginning_with(begin.clone(), begin.len());
            let (mut pays, mut paid, mut buffer) = (VecDeque::from(pays), 0, [0; 128]);
            // Each turn uses up some of the scripts.
            for _ in 0..1000 {
                let pay = |count| {
                    let may = pays.pop_front().unwrap_or(true);
                    paid += if may { count } else { 0 };
                    may
                };
                let progress = pipe.carry(&mut source, &mut sink, &mut buffer, pay).unwrap();
                prop_assert!(pipe.waiting.len() <= begin.len().max(128));
                if progress == Progress::Over {
                    break;
                }
                prop_assert!(!sink.is_finished);
            }
            prop_assert!(sink.is_finished);
            prop_assert_eq!(paid, begin.len() + bytes.len());
            prop_assert_eq!(sink.bytes, [begin, bytes].concat());
        }
    }

    #[test]
    fn whoever_takes_nothing_keeps_the_other_from_sending() {
        let mut source = Source { bytes: vec![7; 10_000].into(), script: Script::new() };
        let mut sink = Sink { script: vec![0; 100].into(), ..Sink::default() };
        let (mut pipe, mut buffer) = (Pipe::default(), [0; 128]);
        for _ in 0..50 {
            assert_eq!(pipe.carry(&mut source, &mut sink, &mut buffer, |_| true).unwrap(), Progress::Blocked);
        }
        assert_eq!(source.bytes.len(), 10_000 - 128);
    }

    #[test]
    fn both_ways_go_on_until_both_are_over() {
        use Progress::{Blocked, MaybeMore, Over, Throttled};
        assert_eq!(both(Over, Over), Over);
        assert_eq!([both(Over, Blocked), both(Blocked, Blocked)], [Blocked; 2]);
        assert_eq!([both(Blocked, Throttled), both(Over, Throttled)], [Throttled; 2]);
        assert_eq!([both(MaybeMore, Throttled), both(Over, MaybeMore)], [MaybeMore; 2]);
    }
}
