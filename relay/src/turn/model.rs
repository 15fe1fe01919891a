//! The state machine against a model that a reader can check: lists of what lives until when, searched from the
//! front. Any sequence of requests, data and time must look the same from outside.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::world::*;
use super::*;
use crate::stun::{ChannelNumber, Method};

const CLIENTS: [&str; 3] = ["192.0.2.7:4000", "192.0.2.7:4001", "192.0.2.8:4000"];
/// Two of them share an IP address, and thereby a permission; the last is out of bounds.
const PEERS: [&str; 4] = ["8.8.8.8:5000", "8.8.8.8:5001", "1.1.1.1:5000", "10.0.0.1:5000"];
const CHANNELS: [u16; 4] = [0x4000, 0x4001, 0x4FFF, 0x5000];

#[derive(Debug, Clone)]
enum Operation {
    Allocate {
        client: usize,
    },
    Refresh {
        client: usize,
        seconds: u32,
    },
    Permit {
        client: usize,
        peer: usize,
    },
    Bind {
        client: usize,
        channel: usize,
        peer: usize,
    },
    Send {
        client: usize,
        peer: usize,
    },
    SendByChannel {
        client: usize,
        channel: usize,
    },
    FromPeer {
        client: usize,
        peer: usize,
    },
    Close {
        client: usize,
    },
    Wait {
        seconds: u64,
    },
    /// Another process goes on.
    Upgrade,
}

fn operation() -> impl Strategy<Value = Operation> {
    let (client, peer, channel) = (0..CLIENTS.len(), 0..PEERS.len(), 0..CHANNELS.len());
    prop_oneof![
        3 => client.clone().prop_map(|client| Operation::Allocate { client }),
        2 => (client.clone(), prop_oneof![Just(0), Just(600), Just(3600), 0..5000u32])
            .prop_map(|(client, seconds)| Operation::Refresh { client, seconds }),
        3 => (client.clone(), peer.clone()).prop_map(|(client, peer)| Operation::Permit { client, peer }),
        4 => (client.clone(), channel.clone(), peer.clone())
            .prop_map(|(client, channel, peer)| Operation::Bind { client, channel, peer }),
        2 => (client.clone(), peer.clone()).prop_map(|(client, peer)| Operation::Send { client, peer }),
        3 => (client.clone(), channel).prop_map(|(client, channel)| Operation::SendByChannel { client, channel }),
        3 => (client.clone(), peer).prop_map(|(client, peer)| Operation::FromPeer { client, peer }),
        1 => client.prop_map(|client| Operation::Close { client }),
        1 => Just(Operation::Upgrade),
        4 => prop_oneof![Just(1), Just(299), Just(300), Just(600), 0..700u64]
            .prop_map(|seconds| Operation::Wait { seconds }),
    ]
}

/// One client's allocation, as lists.
#[derive(Debug, Clone)]
struct Modelled {
    id: usize,
    ends: Duration,
    /// IP address, end.
    permissions: Vec<(String, Duration)>,
    /// Channel, peer, end.
    channels: Vec<(u16, usize, Duration)>,
}

impl Modelled {
    fn permits(&self, peer: usize) -> bool {
        self.permissions.iter().any(|(ip, _)| *ip == ip_of(peer))
    }

    fn permit(&mut self, peer: usize, now: Duration) {
        self.permissions.retain(|(ip, _)| *ip != ip_of(peer));
        self.permissions.push((ip_of(peer), now + Duration::from_secs(300)));
    }
}

fn ip_of(peer: usize) -> String {
    PEERS[peer].split(':').next().unwrap().to_owned()
}

fn is_out_of_bounds(peer: usize) -> bool {
    peer == 3
}

struct Pair {
    world: World,
    model: [Option<Modelled>; 3],
    /// What a driver would have in its table.
    routes: BTreeSet<Route>,
}

impl Pair {
    fn new() -> Self {
        Self { world: World::new(), model: [const { None }; 3], routes: BTreeSet::new() }
    }

    fn now(&self) -> Duration {
        self.world.elapsed
    }

    fn client(&mut self, client: usize) -> Client {
        self.world.client(CLIENTS[client])
    }

    fn run(&mut self, operation: &Operation) {
        match *operation {
            Operation::Allocate { client } => self.allocate(client),
            Operation::Refresh { client, seconds } => self.refresh(client, seconds),
            Operation::Permit { client, peer } => self.permit(client, peer),
            Operation::Bind { client, channel, peer } => self.bind(client, CHANNELS[channel], peer),
            Operation::Send { client, peer } => self.send(client, peer),
            Operation::SendByChannel { client, channel } => self.send_by_channel(client, CHANNELS[channel]),
            Operation::FromPeer { client, peer } => self.receive(client, peer),
            Operation::Close { client } => self.close(client),
            Operation::Upgrade => self.upgrade(),
            Operation::Wait { seconds } => self.wait(Duration::from_secs(seconds)),
        }
        self.follow_routes();
        self.compare();
    }

    fn allocate(&mut self, client: usize) {
        let asker = self.client(client);
        let code = self.world.code(&asker, Method::ALLOCATE, udp());
        if self.model[client].is_some() {
            return assert_eq!(code, Some(437));
        }
        assert_eq!(code, None);
        let ends = self.now() + Duration::from_secs(600);
        // The lowest free number, as a slab gives out.
        let id = self.world.server.clients.all(asker.flow).next().unwrap().0;
        self.model[client] = Some(Modelled { id, ends, permissions: vec![], channels: vec![] });
    }

    fn refresh(&mut self, client: usize, seconds: u32) {
        let asker = self.client(client);
        let code = self.world.code(&asker, Method::REFRESH, vec![lifetime(seconds)]);
        let now = self.now();
        match &mut self.model[client] {
            None => assert_eq!(code, Some(437)),
            Some(_) if seconds == 0 => {
                assert_eq!(code, None);
                self.model[client] = None;
            }
            Some(modelled) => {
                assert_eq!(code, None);
                modelled.ends = now + Duration::from_secs(seconds.clamp(600, 3600).into());
            }
        }
    }

    fn permit(&mut self, client: usize, peer: usize) {
        let asker = self.client(client);
        let address = self.world.peer(PEERS[peer]);
        let code = self.world.code(&asker, Method::CREATE_PERMISSION, vec![address]);
        let now = self.now();
        match &mut self.model[client] {
            None => assert_eq!(code, Some(437)),
            Some(_) if is_out_of_bounds(peer) => assert_eq!(code, Some(403)),
            Some(modelled) => {
                assert_eq!(code, None);
                modelled.permit(peer, now);
            }
        }
    }

    fn bind(&mut self, client: usize, channel: u16, peer: usize) {
        let asker = self.client(client);
        let code = self.world.bind_code(&asker, channel, PEERS[peer]);
        let now = self.now();
        let Some(modelled) = &mut self.model[client] else { return assert_eq!(code, Some(437)) };
        let conflicts = |(bound, to, _): &(u16, usize, Duration)| (*bound == channel) != (*to == peer);
        if channel > 0x4FFF {
            return assert_eq!(code, Some(400));
        }
        if is_out_of_bounds(peer) {
            return assert_eq!(code, Some(403));
        }
        if modelled.channels.iter().any(conflicts) {
            return assert_eq!(code, Some(400));
        }
        assert_eq!(code, None);
        modelled.permit(peer, now);
        modelled.channels.retain(|(bound, _, _)| *bound != channel);
        modelled.channels.push((channel, peer, now + Duration::from_secs(600)));
    }

    fn send(&mut self, client: usize, peer: usize) {
        let asker = self.client(client);
        self.follow_routes();
        self.world.send(&asker, PEERS[peer], b"data");
        let may = self.model[client].as_ref().is_some_and(|modelled| modelled.permits(peer));
        let sent = self.world.actions();
        assert_eq!(matches!(sent[..], [Action::SendToPeer { .. }]), may);
        assert_eq!(sent.is_empty(), !may);
    }

    fn send_by_channel(&mut self, client: usize, channel: u16) {
        let asker = self.client(client);
        self.follow_routes();
        self.world.send_by_channel(&asker, channel, b"data");
        let to = self.model[client].as_ref().and_then(|modelled| {
            let (_, peer, _) = modelled.channels.iter().find(|(bound, _, _)| *bound == channel)?;
            modelled.permits(*peer).then_some(PEERS[*peer])
        });
        let sent: Vec<_> = self.world.actions();
        let went_to = match &sent[..] {
            [Action::SendToPeer { peer, .. }] => Some(peer.to_string()),
            [] => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(went_to.as_deref(), to);
    }

    fn receive(&mut self, client: usize, peer: usize) {
        self.follow_routes();
        let Some(modelled) = self.model[client].clone() else { return };
        self.world.receive(modelled.id, PEERS[peer], b"data");
        let sent = self.world.actions();
        let channel = modelled.channels.iter().find(|(_, to, _)| *to == peer).map(|(channel, _, _)| *channel);
        match &sent[..] {
            [] => assert!(!modelled.permits(peer)),
            [Action::SendToClient { flow, message, data_bytes: 4, .. }] => {
                assert!(modelled.permits(peer));
                assert_eq!(flow.client.to_string(), CLIENTS[client]);
                let first = u16::from_be_bytes([message[0], message[1]]);
                assert_eq!(Some(first).filter(|first| *first >= 0x4000), channel);
            }
            other => panic!("{other:?}"),
        }
    }

    fn close(&mut self, client: usize) {
        let asker = self.client(client);
        self.world.server.handle_flow_closed(asker.flow);
        self.world.act();
        self.model[client] = None;
    }

    /// The other one installs all routes anew, and nothing else can be seen of it.
    fn upgrade(&mut self) {
        self.follow_routes();
        self.world.upgrade();
        self.routes.clear();
    }

    fn wait(&mut self, by: Duration) {
        self.world.advance(by);
        let now = self.now();
        for slot in &mut self.model {
            if slot.as_ref().is_some_and(|modelled| modelled.ends <= now) {
                *slot = None;
            }
            if let Some(modelled) = slot {
                modelled.permissions.retain(|(_, ends)| *ends > now);
                modelled.channels.retain(|(_, _, ends)| *ends > now);
            }
        }
    }

    /// Keeps the table a driver would keep, strictly: nothing is installed twice or removed unless it is there.
    fn follow_routes(&mut self) {
        for action in self.world.actions() {
            match &action {
                Action::InstallRoute(route) => {
                    assert!(self.routes.insert(*route), "installed twice: {route:?}")
                }
                Action::RemoveRoute(route) => assert!(self.routes.remove(route), "not there: {route:?}"),
                Action::CloseRelay { allocation } => {
                    assert!(
                        self.routes.iter().all(|route| route.allocation != *allocation),
                        "a route outlives it"
                    );
                }
                Action::Respond { .. }
                | Action::SendToClient { .. }
                | Action::SendToPeer { .. }
                | Action::LookUp(_)
                | Action::HandOver { .. }
                | Action::Connect { .. }
                | Action::Splice { .. }
                | Action::Disconnect { .. }
                | Action::MoveStream { .. }
                | Action::OpenRelay { .. } => panic!("unexpected {action:?}"),
            }
        }
    }

    /// A route is in the table exactly while a channel and its peer's permission both live.
    fn compare(&mut self) {
        let mut expected = BTreeSet::new();
        for (client, modelled) in self.model.clone().into_iter().enumerate() {
            let Some(modelled) = modelled else { continue };
            let flow = self.client(client).flow;
            for (channel, peer, _) in modelled.channels.iter().filter(|(_, peer, _)| modelled.permits(*peer))
            {
                let channel = ChannelNumber::new(*channel).unwrap();
                let peer = PeerAddr(PEERS[*peer].parse().unwrap());
                expected.insert(Route { flow, allocation: AllocationId(modelled.id), channel, peer });
            }
        }
        assert_eq!(self.routes, expected);
        let living = self.model.iter().flatten();
        let deadlines: usize =
            living.clone().map(|modelled| 1 + modelled.permissions.len() + modelled.channels.len()).sum();
        assert_eq!(self.world.server.allocation_count(), living.count());
        assert_eq!(
            self.world.server.deadlines.len(),
            deadlines,
            "a deadline without what it ends, or the reverse"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_sequence_looks_like_the_model(operations in proptest::collection::vec(operation(), 1..60)) {
        let mut pair = Pair::new();
        for operation in &operations {
            pair.run(operation);
        }
    }
}
