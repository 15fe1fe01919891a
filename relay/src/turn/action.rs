//! What the state machine wants done, as plain data.

use super::{ConnectionId, FiveTuple, PeerAddr, RelayProtocol, RelayedAddr, WorkerIndex};
use crate::auth::{LookUp, User};
use crate::policy::Limits;
use crate::stun::ChannelNumber;

/// An allocation's number: small, and free for another once its relay is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId(pub usize);

/// One thing to do. They are done in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a response: a client waits for it.
    Respond {
        /// To whom.
        flow: FiveTuple,
        /// The whole message.
        message: Vec<u8>,
    },
    /// Send relayed data to a client, who can do without if there is no room.
    SendToClient {
        /// Whose allocation, on whose meter it counts.
        allocation: AllocationId,
        /// To whom.
        flow: FiveTuple,
        /// The whole message.
        message: Vec<u8>,
        /// How much of it is application data.
        data_bytes: usize,
    },
    /// Send relayed data to a peer.
    SendToPeer {
        /// From whose relayed address.
        allocation: AllocationId,
        /// To whom.
        peer: PeerAddr,
        /// The application data.
        data: Vec<u8>,
        /// Whether the network may cut it up.
        fragmentation: Fragmentation,
    },
    /// Open a socket at this address for this allocation, counting against this user's quota, and say how it
    /// went by `handle_relay_opened` before anything else.
    OpenRelay {
        /// Whose.
        allocation: AllocationId,
        /// Where.
        relayed: RelayedAddr,
        /// What for.
        protocol: RelayProtocol,
        /// Whose quota.
        user: User,
        /// What that user may use, where it differs from everybody's.
        limits: Limits,
    },
    /// Close it. The number may be another's from now on.
    CloseRelay {
        /// Whose.
        allocation: AllocationId,
    },
    /// Connect from the relayed address to a peer, and say how it went by `handle_connected`.
    Connect {
        /// From whose relayed address.
        allocation: AllocationId,
        /// Under which number.
        connection: ConnectionId,
        /// To whom.
        peer: PeerAddr,
    },
    /// From now on the bytes of this connection are those of this client's stream, both ways.
    Splice {
        /// Which.
        connection: ConnectionId,
        /// By which stream the client came for it.
        flow: FiveTuple,
    },
    /// Close a connection, if it is there, at both ends.
    Disconnect {
        /// Which.
        connection: ConnectionId,
    },
    /// Have another worker serve this stream from here on, since its client came for a connection of that one's.
    MoveStream {
        /// Which.
        flow: FiveTuple,
        /// To whom.
        worker: WorkerIndex,
        /// What is to be read once more.
        message: Vec<u8>,
    },
    /// Ask somebody else about a user, and say what came of it by `handle_looked_up`, whenever that is.
    LookUp(LookUp),
    /// Have another worker handle this, since it names something of that one's.
    HandOver {
        /// From whom it came.
        flow: FiveTuple,
        /// Which worker.
        worker: WorkerIndex,
        /// The whole message.
        message: Vec<u8>,
    },
    /// Forward data of this channel without asking.
    InstallRoute(Route),
    /// Ask again.
    RemoveRoute(Route),
}

/// A bound channel whose peer has a permission: data may flow both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// The client.
    pub flow: FiveTuple,
    /// Its allocation.
    pub allocation: AllocationId,
    /// What the client calls the peer.
    pub channel: ChannelNumber,
    /// The peer, as the relay socket sees it.
    pub peer: PeerAddr,
}

/// Whether the network may cut a datagram up. RFC 8656, section 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragmentation {
    /// As usual.
    Allowed,
    /// The client asked for DONT-FRAGMENT.
    Forbidden,
}

/// Why a relay was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// Somebody has that port; another may be free.
    #[error("the address is in use")]
    AddressInUse,
    /// The user holds as many allocations as it may.
    #[error("the user's quota is reached")]
    QuotaReached,
    /// No socket to be had: descriptors, memory, or an address that is not ours.
    #[error("no socket to be had")]
    Unavailable,
}
