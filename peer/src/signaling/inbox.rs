//! What came in: frames are taken once and in order, and acknowledged cumulatively.

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// The last frame that was taken.
    last: u64,
    /// The last one that the server knows we took.
    acked: u64,
}

/// What to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Take it.
    Take,
    /// It was taken before.
    Repeated,
    /// One before it is missing.
    Gap,
}

impl Inbox {
    /// Judges a frame's number; 0 stands for frames that are not numbered.
    pub(super) fn handle(&mut self, seq: u64) -> Verdict {
        if seq == 0 {
            Verdict::Take
        } else if seq <= self.last {
            Verdict::Repeated
        } else if seq == self.last + 1 {
            self.last = seq;
            Verdict::Take
        } else {
            Verdict::Gap
        }
    }

    /// The number to resume and to acknowledge with.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Frames taken that the server does not know of.
    pub(super) fn unacknowledged(&self) -> u64 {
        self.last - self.acked
    }

    /// The server knows.
    pub(super) fn acknowledged(&mut self, seq: u64) {
        self.acked = self.acked.max(seq.min(self.last));
    }

    /// A new session, whose first frame has this number.
    pub(super) fn restart(&mut self, next: u64) {
        self.last = next.saturating_sub(1);
        self.acked = self.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_frame_is_taken_once() {
        let mut inbox = Inbox::default();
        assert_eq!(
            [1, 2, 1, 2, 3].map(|seq| inbox.handle(seq)),
            [Verdict::Take, Verdict::Take, Verdict::Repeated, Verdict::Repeated, Verdict::Take]
        );
        assert_eq!((inbox.last(), inbox.unacknowledged()), (3, 3));
    }

    #[test]
    fn a_gap_is_noticed_and_changes_nothing() {
        let mut inbox = Inbox::default();
        assert_eq!((inbox.handle(2), inbox.last()), (Verdict::Gap, 0));
    }

    #[test]
    fn unnumbered_frames_are_always_taken() {
        let mut inbox = Inbox::default();
        assert_eq!((inbox.handle(0), inbox.handle(0), inbox.last()), (Verdict::Take, Verdict::Take, 0));
    }

    #[test]
    fn an_acknowledgement_never_goes_back() {
        let mut inbox = Inbox::default();
        inbox.handle(1);
        inbox.handle(2);
        inbox.acknowledged(2);
        inbox.acknowledged(1);
        assert_eq!(inbox.unacknowledged(), 0);
    }

    #[test]
    fn a_new_session_begins_where_it_says() {
        let mut inbox = Inbox::default();
        inbox.restart(5);
        assert_eq!((inbox.handle(4), inbox.handle(5)), (Verdict::Repeated, Verdict::Take));
    }
}
