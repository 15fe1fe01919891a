//! One client's relayed transport address, and what goes with it. RFC 8656, section 5.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::allocate::{Family, ReservationToken};
use super::channel::Channels;
use super::inspect::Story;
use super::permission::Permissions;
use super::ports::PortSequence;
use super::reply::Reply;
use super::{AllocationId, FiveTuple, PeerAddr, Reject, RelayProtocol, RelayedAddr, Route};
use crate::auth::Credential;
use crate::policy::Meter;
use crate::stun::{ChannelNumber, TransactionId};

#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) id: AllocationId,
    pub(super) flow: FiveTuple,
    pub(super) relayed: RelayedAddr,
    /// What the relayed address is for.
    pub(super) protocol: RelayProtocol,
    pub(super) credential: Credential,
    /// Of the Allocate that made it, to know its retransmissions by.
    pub(super) transaction_id: TransactionId,
    /// What was granted at first, to answer those alike.
    pub(super) granted: Duration,
    pub(super) phase: Phase,
    /// What new peers are counted with, once its relay is open.
    pub(super) meter: Meter,
    pub(super) permissions: Permissions,
    pub(super) channels: Channels,
    /// Of the port above, which is held.
    pub(super) held: Option<ReservationToken>,
    /// Why there is none of the other address family, if the client wanted both.
    pub(super) refused: Option<(Family, Reject)>,
    /// What the operator is told of it, once it lives.
    pub(super) story: Option<Story>,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// A socket is being opened, and a client waits for the answer.
    Opening(Box<Opening>),
    /// Its socket is open, and nobody's until somebody brings the token.
    Held {
        /// Which token.
        token: ReservationToken,
        /// Until when.
        expires_at: Instant,
    },
    /// It lives.
    Open {
        /// Until when.
        expires_at: Instant,
    },
}

/// What is to happen once a socket is open, or not.
#[derive(Debug, Clone)]
pub(super) struct Opening {
    /// What to answer.
    pub(super) reply: Reply,
    /// Where else to try.
    pub(super) ports: PortSequence,
    pub(super) next: Next,
}

/// The next step after a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// There is none.
    Answer,
    /// A socket of the other address family.
    OpenOther,
    /// A socket at the port above.
    HoldNextPort,
    /// This is the one above, and what is to be answered is the lower one's affair.
    Hold {
        /// The lower one.
        first: AllocationId,
    },
}

impl Allocation {
    /// When it ends, if its socket is open.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Opening(_) => None,
            Phase::Held { expires_at, .. } | Phase::Open { expires_at } => Some(expires_at),
        }
    }

    /// Whether a peer is of the relayed address's family, without which nothing could be sent to it.
    pub(super) fn has_family_of(&self, peer: IpAddr) -> bool {
        self.relayed.0.is_ipv4() == peer.is_ipv4()
    }

    /// The route of a channel, given the peer as the socket sees it.
    pub(super) fn route(&self, channel: ChannelNumber, peer: PeerAddr) -> Route {
        Route { flow: self.flow, allocation: self.id, channel, peer }
    }
}
