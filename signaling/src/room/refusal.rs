//! Why the core refuses a call or ends a stream: answers for a client, not failures of ours.

use super::LeaveReason;

/// Why a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The room holds as many participants as it may.
    #[error("the room holds {limit} participants and no more")]
    RoomFull {
        /// As many as it may hold.
        limit: usize,
    },
    /// There is no such room, and this participant may not make one.
    #[error("there is nobody in this room, and the token does not let its bearer open one")]
    MayNotCreate,
    /// The server holds as many rooms or sessions as it may.
    #[error("the server holds as many rooms or sessions as it may")]
    ServerFull,
    /// A receiver's log has no room for this frame, which was taken for none of its receivers.
    #[error("frame {client_seq} finds a receiver's log full")]
    LogFull {
        /// Frames before it were taken.
        client_seq: u64,
    },
    /// There is no such session, or no longer.
    #[error("there is no such session, or no longer")]
    SessionNotFound,
    /// The secret is not this session's.
    #[error("the secret is not this session's")]
    BadResumeSecret,
    /// A frame came before the one that precedes it.
    #[error("frame {expected} comes next, not {got}")]
    ClientSeqGap {
        /// The one that comes next.
        expected: u64,
        /// The one that came.
        got: u64,
    },
    /// The client says that it has what was never sent.
    #[error("the last frame sent to this session is {last}")]
    BeyondTheLog {
        /// The last that was sent.
        last: u64,
    },
}

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// A newer stream of the same session took over.
    Superseded,
    /// No heartbeat came for the length of the lease. The session can be resumed.
    Unheard,
    /// The session ended.
    Ended(LeaveReason),
    /// The session ended so long ago that nobody remembers why.
    Forgotten,
}
