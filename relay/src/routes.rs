//! The forwarding table: what the state machine decided, as two look-ups.
//!
//! A route is here exactly while a channel is bound and its peer has a permission, so that whoever finds one need
//! not ask. A miss is no error: the datagram goes to the state machine, which knows the rules.
//!
//! A client is found by hashing its flow, under a seed of this process that nobody outside can learn; an allocation by
//! its number. What either has is a short sorted list.

use std::collections::HashMap;

use foldhash::quality::RandomState;
use slab::Slab;

use crate::sorted_map::SortedMap;
use crate::stun::ChannelNumber;
use crate::turn::{AllocationId, FiveTuple, PeerAddr, Route};

/// Both directions of every route of one worker.
#[derive(Debug, Default)]
pub struct Routes {
    by_flow: HashMap<FiveTuple, usize, RandomState>,
    clients: Slab<Client>,
    /// By allocation: its peers, each with the client and the channel its data goes to.
    peers: Vec<SortedMap<PeerAddr, (usize, ChannelNumber)>>,
}

#[derive(Debug)]
struct Client {
    flow: FiveTuple,
    channels: SortedMap<ChannelNumber, (AllocationId, PeerAddr)>,
}

impl Routes {
    /// Data may flow.
    pub fn install(&mut self, route: Route) {
        let Route { flow, allocation, channel, peer } = route;
        let clients = &mut self.clients;
        let client = *self
            .by_flow
            .entry(flow)
            .or_insert_with(|| clients.insert(Client { flow, channels: SortedMap::default() }));
        if let Some(client) = self.clients.get_mut(client) {
            client.channels.insert(channel, (allocation, peer));
        }
        if self.peers.len() <= allocation.0 {
            self.peers.resize_with(allocation.0 + 1, SortedMap::default);
        }
        if let Some(peers) = self.peers.get_mut(allocation.0) {
            peers.insert(peer, (client, channel));
        }
    }

    /// Data may flow no longer.
    pub fn remove(&mut self, route: &Route) {
        let Route { flow, allocation, channel, peer } = route;
        if let Some(index) = self.by_flow.get(flow).copied()
            && let Some(client) = self.clients.get_mut(index)
        {
            client.channels.remove(*channel);
            if client.channels.is_empty() {
                self.clients.remove(index);
                self.by_flow.remove(flow);
            }
        }
        if let Some(peers) = self.peers.get_mut(allocation.0) {
            peers.remove(*peer);
        }
    }

    /// From which relay to which peer a client's channel goes.
    #[must_use]
    pub fn to_peer(&self, flow: FiveTuple, channel: ChannelNumber) -> Option<(AllocationId, PeerAddr)> {
        self.clients.get(*self.by_flow.get(&flow)?)?.channels.get(channel).copied()
    }

    /// To which client and under which number a peer's data goes.
    #[must_use]
    pub fn to_client(&self, allocation: AllocationId, from: PeerAddr) -> Option<(FiveTuple, ChannelNumber)> {
        let (client, channel) = self.peers.get(allocation.0)?.get(from)?;
        Some((self.clients.get(*client)?.flow, *channel))
    }

    /// Whether no data flows at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_flow.is_empty() && self.clients.is_empty() && self.peers.iter().all(SortedMap::is_empty)
    }

    /// Gives memory back that only more routes than there are now would need.
    pub fn shrink(&mut self) {
        self.by_flow.shrink_to_fit();
        self.clients.shrink_to_fit();
        let used = self.peers.iter().rposition(|peers| !peers.is_empty()).map_or(0, |last| last + 1);
        self.peers.truncate(used);
        self.peers.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::turn::{ClientAddr, Transport};

    /// The same with nothing clever about it.
    #[derive(Default)]
    struct Model(Vec<Route>);

    fn route(flow: u16, allocation: usize, channel: u16, peer: u16) -> Route {
        let at = |port| std::net::SocketAddr::from(([192, 0, 2, 1], port));
        let flow = FiveTuple { client: ClientAddr(at(flow)), server: at(1), transport: Transport::Udp };
        let channel = ChannelNumber::new(0x4000 + channel).unwrap();
        Route { flow, allocation: AllocationId(allocation), channel, peer: PeerAddr(at(peer)) }
    }

    proptest! {
        #[test]
        fn routes_equal_a_list_of_routes(steps: Vec<(bool, u16, u8, u8)>) {
            let (mut routes, mut model) = (Routes::default(), Model::default());
            for (installs, flow, channel, peer) in steps {
                let (flow, channel, peer) = (flow % 4, u16::from(channel % 3), u16::from(peer % 3));
                let new = route(flow, usize::from(flow), channel, peer);
                let is_same = |known: &Route| *known == new;
                let is_in_the_way = |known: &Route| known.flow == new.flow && (known.channel == new.channel || known.peer == new.peer);
                if !installs && model.0.iter().any(is_same) {
                    model.0.retain(|known| !is_same(known));
                    routes.remove(&new);
                } else if installs && !model.0.iter().any(|known| is_in_the_way(known) && !is_same(known)) {
                    model.0.retain(|known| !is_same(known));
                    model.0.push(new);
                    routes.install(new);
                }
                if installs {
                    routes.shrink();
                }
                for flow in 0..4 {
                    for other in 0..3 {
                        let asked = route(flow, usize::from(flow), other, other);
                        let known = |matches: fn(&Route, &Route) -> bool| model.0.iter().find(|known| known.flow == asked.flow && matches(known, &asked));
                        prop_assert_eq!(
                            routes.to_peer(asked.flow, asked.channel),
                            known(|a, b| a.channel == b.channel).map(|known| (known.allocation, known.peer))
                        );
                        prop_assert_eq!(
                            routes.to_client(asked.allocation, asked.peer),
                            known(|a, b| a.peer == b.peer).map(|known| (known.flow, known.channel))
                        );
                    }
                }
                prop_assert_eq!(routes.is_empty(), model.0.is_empty());
            }
        }
    }
}
