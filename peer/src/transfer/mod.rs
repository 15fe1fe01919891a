//! Transfers of files and folders: both ends as state machines between frames and the file system, without network,
//! tasks and clock. The protocol is described in `proto/farcall/peer/v1/transfer.proto`.

mod incoming;
mod names;
mod outgoing;
mod state;
#[cfg(test)]
mod tests;
mod tree;

use farcall_proto::peer::v1 as proto;
use farcall_proto::peer::v1::transfer_frame::Body;
use prost::Message as _;

pub(crate) use self::incoming::{Collision, Incoming};
pub(crate) use self::outgoing::Outgoing;
use crate::failure::{Failure, Reason};

/// Of the channel.
pub(crate) const PROTOCOL: &str = "farcall.transfer.v1";
/// Bytes between two chaining values: a power of two of BLAKE3's chunks.
const BLOCK: usize = 256 << 10;
/// Bytes of a file in one message: with its frame it is one that every endpoint takes.
const PIECE: usize = 60 << 10;
/// Entries of a transfer, which the receiver holds in memory.
const MOST_ENTRIES: usize = 1_000_000;

/// What an end tells besides its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// It is known what will be transferred.
    Begun { files: u64, bytes: u64 },
    /// So many bytes need not be sent, since they arrived before.
    Resumed { bytes: u64 },
    /// So many bytes went on their way, or arrived.
    Carried { bytes: u64 },
    /// A file is complete, and in its place.
    File { path: String, bytes: u64, hash: String },
    /// Something is left out.
    Skipped { path: String, reason: String },
    /// Everything is in its place.
    Complete,
}

/// Frames and notices that wait to be fetched.
#[derive(Debug, Default)]
struct Out {
    frames: std::collections::VecDeque<Body>,
    notices: std::collections::VecDeque<Notice>,
}

pub(crate) fn encode(body: Body) -> Vec<u8> {
    proto::TransferFrame { body: Some(body) }.encode_to_vec()
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Body, Failure> {
    let frame = proto::TransferFrame::decode(bytes).ok().and_then(|frame| frame.body);
    frame.ok_or_else(|| unacceptable("a frame that cannot be read"))
}

/// What the other side must be told of the end.
pub(crate) fn farewell(failure: &Failure) -> Body {
    use proto::TransferFailureKind as Kind;
    let kind = match failure.reason {
        Reason::NoInput => Kind::Source,
        Reason::Exists => Kind::Exists,
        Reason::CannotWrite => Kind::Disk,
        Reason::BadData => Kind::Data,
        Reason::Unreachable
        | Reason::RoomFull
        | Reason::BadToken
        | Reason::IceFailed
        | Reason::BadMedia
        | Reason::BadUsage
        | Reason::SessionLost
        | Reason::Cancelled
        | Reason::Refused
        | Reason::Untrusted
        | Reason::WrongCode
        | Reason::Internal => Kind::Cancelled,
    };
    Body::Failure(proto::TransferFailure {
        kind: kind.into(),
        message: failure.message.chars().take(LONGEST_MESSAGE).collect(),
    })
}

/// The other side's reason as ours.
fn ended_by(failure: &proto::TransferFailure) -> Failure {
    use proto::TransferFailureKind as Kind;
    let reason = match failure.kind() {
        Kind::Source => Reason::NoInput,
        Kind::Exists => Reason::Exists,
        Kind::Disk => Reason::CannotWrite,
        Kind::Data => Reason::BadData,
        Kind::Cancelled | Kind::Unspecified => Reason::Cancelled,
    };
    let message: String = failure.message.chars().take(LONGEST_MESSAGE).collect();
    Failure::new(reason, format!("the other side says: {message}"))
        .with_details(serde_json::json!({ "from": "the other side" }))
}

/// Either end of a transfer, over one connection after the other.
pub(crate) trait End {
    /// What the other side said.
    fn handle(&mut self, frame: Body) -> Result<(), Failure>;
    /// The next frame to send, if there is one now.
    fn next_frame(&mut self) -> Result<Option<Body>, Failure>;
    /// The next thing to tell, if there is one now.
    fn next_notice(&mut self) -> Option<Notice>;
    /// Whether all files are in their places.
    fn is_complete(&self) -> bool;
}

fn unacceptable(what: &str) -> Failure {
    Failure::new(Reason::BadData, format!("the other side sent {what}"))
}

const LONGEST_MESSAGE: usize = 1024;
