//! One client's relayed transport address, and what goes with it. RFC 8656, section 5.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::channel::Channels;
use super::permission::Permissions;
use super::ports::PortSequence;
use super::reply::Reply;
use super::{AllocationId, FiveTuple, PeerAddr, RelayedAddr, Route};
use crate::auth::Credential;
use crate::policy::Meter;
use crate::stun::{ChannelNumber, TransactionId};

#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) id: AllocationId,
    pub(super) flow: FiveTuple,
    pub(super) relayed: RelayedAddr,
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
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Its socket is being opened, and its client waits for the answer.
    Opening {
        /// What to answer.
        reply: Box<Reply>,
        /// Where else to try.
        ports: PortSequence,
    },
    /// It lives.
    Open {
        /// Until when.
        expires_at: Instant,
    },
}

impl Allocation {
    /// When it ends, if it lives.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Opening { .. } => None,
            Phase::Open { expires_at } => Some(expires_at),
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
