//! The forwarding table: what the state machine decided, as two look-ups.
//!
//! A route is here exactly while a channel is bound and its peer has a permission, so that whoever finds one need
//! not ask. A miss is no error: the datagram goes to the state machine, which knows the rules.

use std::collections::HashMap;

use crate::stun::ChannelNumber;
use crate::turn::{AllocationId, FiveTuple, PeerAddr, Route};

/// Both directions of every route of one worker.
#[derive(Debug, Default)]
pub struct Routes {
    to_peer: HashMap<(FiveTuple, ChannelNumber), (AllocationId, PeerAddr)>,
    to_client: HashMap<(AllocationId, PeerAddr), (FiveTuple, ChannelNumber)>,
}

impl Routes {
    /// Data may flow.
    pub fn install(&mut self, route: Route) {
        self.to_peer.insert((route.flow, route.channel), (route.allocation, route.peer));
        self.to_client.insert((route.allocation, route.peer), (route.flow, route.channel));
    }

    /// Data may flow no longer.
    pub fn remove(&mut self, route: &Route) {
        self.to_peer.remove(&(route.flow, route.channel));
        self.to_client.remove(&(route.allocation, route.peer));
    }

    /// From which relay to which peer a client's channel goes.
    #[must_use]
    pub fn to_peer(&self, flow: FiveTuple, channel: ChannelNumber) -> Option<(AllocationId, PeerAddr)> {
        self.to_peer.get(&(flow, channel)).copied()
    }

    /// To which client and under which number a peer's data goes.
    #[must_use]
    pub fn to_client(&self, allocation: AllocationId, from: PeerAddr) -> Option<(FiveTuple, ChannelNumber)> {
        self.to_client.get(&(allocation, from)).copied()
    }

    /// Whether no data flows at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.to_peer.is_empty() && self.to_client.is_empty()
    }
}
