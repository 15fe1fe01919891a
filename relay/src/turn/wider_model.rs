//! The state machine against a second model, with what clients may do beyond one relay at one address: relays of both
//! families, even and held ports, and moves to other addresses. It is lists again, searched from the front.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::world::*;
use super::*;
use crate::stun::{AttributeType, ChannelNumber, Method};

const FLOWS: [&str; 4] = ["192.0.2.7:4000", "192.0.2.7:4001", "192.0.2.8:4000", "203.0.113.50:9000"];
/// Of each family two at one IP address, and one that is out of bounds.
const PEERS: [&str; 6] = [
    "8.8.8.8:5000",
    "8.8.8.8:5001",
    "10.0.0.1:5000",
    "[2606:4700::2]:5000",
    "[2606:4700::2]:5001",
    "[fe80::1]:5000",
];
const CHANNELS: [u16; 3] = [0x4000, 0x4001, 0x4FFF];
/// The first owns most of what there is.
const USERS: [&str; 2] = ["alice", "bob"];

#[derive(Debug, Clone, Copy)]
enum Wish {
    V4,
    V6,
    Both,
    Even,
    EvenV6,
    WithNextPort,
    /// One of the tokens that were ever given out, by age.
    Held(usize),
}

#[derive(Debug, Clone, Copy)]
enum Ticket {
    None,
    /// One of those that were ever given out, by age.
    Given(usize),
    Invented,
}

#[derive(Debug, Clone, Copy)]
struct Asker {
    flow: usize,
    user: usize,
}

#[derive(Debug, Clone)]
enum Operation {
    Allocate {
        asker: Asker,
        wish: Wish,
        is_mobile: bool,
    },
    Refresh {
        asker: Asker,
        family: Option<u8>,
        seconds: u32,
        ticket: Ticket,
    },
    Permit {
        asker: Asker,
        peer: usize,
    },
    Bind {
        asker: Asker,
        channel: usize,
        peer: usize,
    },
    Send {
        flow: usize,
        peer: usize,
    },
    SendByChannel {
        flow: usize,
        channel: usize,
    },
    FromPeer {
        relay: usize,
        peer: usize,
    },
    Close {
        flow: usize,
    },
    Wait {
        seconds: u64,
    },
    /// Another process goes on.
    Upgrade,
}

fn asker() -> impl Strategy<Value = Asker> {
    (0..FLOWS.len(), prop_oneof![4 => Just(0), 1 => Just(1)]).prop_map(|(flow, user)| Asker { flow, user })
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        2 => Just(Wish::V4),
        1 => Just(Wish::V6),
        3 => Just(Wish::Both),
        1 => Just(Wish::Even),
        1 => Just(Wish::EvenV6),
        3 => Just(Wish::WithNextPort),
        4 => (0..2usize).prop_map(Wish::Held),
    ]
}

fn ticket() -> impl Strategy<Value = Ticket> {
    prop_oneof![
        4 => Just(Ticket::None),
        6 => (0..4usize).prop_map(Ticket::Given),
        1 => Just(Ticket::Invented),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let (flow, peer, channel) = (0..FLOWS.len(), 0..PEERS.len(), 0..CHANNELS.len());
    let family = prop_oneof![3 => Just(None), 1 => Just(Some(1)), 1 => Just(Some(2))];
    let seconds = prop_oneof![1 => Just(0), 3 => Just(600), 1 => Just(3600)];
    prop_oneof![
        4 => (asker(), wish(), any::<bool>())
            .prop_map(|(asker, wish, is_mobile)| Operation::Allocate { asker, wish, is_mobile }),
        6 => (asker(), family, seconds, ticket()).prop_map(|(asker, family, seconds, ticket)| {
            Operation::Refresh { asker, family, seconds, ticket }
        }),
        3 => (asker(), peer.clone()).prop_map(|(asker, peer)| Operation::Permit { asker, peer }),
        4 => (asker(), channel.clone(), peer.clone())
            .prop_map(|(asker, channel, peer)| Operation::Bind { asker, channel, peer }),
        2 => (flow.clone(), peer.clone()).prop_map(|(flow, peer)| Operation::Send { flow, peer }),
        3 => (flow.clone(), channel).prop_map(|(flow, channel)| Operation::SendByChannel { flow, channel }),
        3 => (0..6usize, peer).prop_map(|(relay, peer)| Operation::FromPeer { relay, peer }),
        1 => flow.prop_map(|flow| Operation::Close { flow }),
        1 => Just(Operation::Upgrade),
        3 => prop_oneof![Just(1), Just(29), Just(30), Just(300), 0..700u64]
            .prop_map(|seconds| Operation::Wait { seconds }),
    ]
}

/// Whoever has relays: where it is, who it is, and where it may turn up next.
#[derive(Debug, Clone)]
struct Holder {
    flow: usize,
    user: usize,
    relays: Vec<Relay>,
    /// The latest ticket, by age, and the one that was used for it.
    ticket: Option<(usize, Option<usize>)>,
    moving_to: Option<usize>,
}

#[derive(Debug, Clone)]
struct Relay {
    id: usize,
    is_v4: bool,
    ends: Duration,
    /// IP address, end.
    permissions: Vec<(String, Duration)>,
    /// Channel, peer, end.
    channels: Vec<(u16, usize, Duration)>,
}

impl Relay {
    fn permits(&self, peer: usize) -> bool {
        self.is_v4 == is_v4(peer) && self.permissions.iter().any(|(ip, _)| *ip == ip_of(peer))
    }

    fn permit(&mut self, peer: usize, now: Duration) {
        self.permissions.retain(|(ip, _)| *ip != ip_of(peer));
        self.permissions.push((ip_of(peer), now + Duration::from_secs(300)));
    }
}

/// A port that is nobody's yet.
#[derive(Debug, Clone)]
struct Held {
    token: usize,
    id: usize,
    user: usize,
    ends: Duration,
}

fn ip_of(peer: usize) -> String {
    PEERS[peer].rsplit_once(':').unwrap().0.to_owned()
}

fn is_v4(peer: usize) -> bool {
    !PEERS[peer].starts_with('[')
}

fn is_out_of_bounds(peer: usize) -> bool {
    [2, 5].contains(&peer)
}

struct Pair {
    world: World,
    holders: Vec<Holder>,
    held: Vec<Held>,
    /// Tickets and tokens as they were given out.
    tickets: Vec<Vec<u8>>,
    tokens: Vec<Vec<u8>>,
    /// What a driver would have in its table, and as sockets.
    routes: BTreeSet<Route>,
}

impl Pair {
    fn new() -> Self {
        let world = World::with(|config| config.addresses.relay_v6 = Some("2606:4700::1".parse().unwrap()));
        let (holders, held, tickets, tokens) = (vec![], vec![], vec![], vec![]);
        Self { world, holders, held, tickets, tokens, routes: BTreeSet::new() }
    }

    fn now(&self) -> Duration {
        self.world.elapsed
    }

    fn client(&mut self, asker: Asker) -> Client {
        self.world.client_as(FLOWS[asker.flow], USERS[asker.user], "wonder")
    }

    fn run(&mut self, operation: &Operation) {
        match *operation {
            Operation::Allocate { asker, wish, is_mobile } => self.allocate(asker, wish, is_mobile),
            Operation::Refresh { asker, family, seconds, ticket } => {
                self.refresh(asker, family, seconds, ticket);
            }
            Operation::Permit { asker, peer } => self.permit(asker, peer),
            Operation::Bind { asker, channel, peer } => self.bind(asker, CHANNELS[channel], peer),
            Operation::Send { flow, peer } => self.send(flow, peer),
            Operation::SendByChannel { flow, channel } => self.send_by_channel(flow, CHANNELS[channel]),
            Operation::FromPeer { relay, peer } => self.receive(relay, peer),
            Operation::Close { flow } => self.close(flow),
            Operation::Wait { seconds } => self.wait(Duration::from_secs(seconds)),
            Operation::Upgrade => self.upgrade(),
        }
        self.follow_routes();
        self.compare();
    }

    /// Whoever was expected at an address has come.
    fn settle(&mut self, flow: usize) {
        if let Some(holder) = self.holders.iter_mut().find(|holder| holder.moving_to == Some(flow)) {
            (holder.flow, holder.moving_to) = (flow, None);
            if let Some((_, before)) = &mut holder.ticket {
                *before = None;
            }
        }
    }

    fn at(&self, flow: usize) -> Option<usize> {
        self.holders.iter().position(|holder| holder.flow == flow)
    }

    fn allocate(&mut self, asker: Asker, wish: Wish, is_mobile: bool) {
        if matches!(wish, Wish::Held(age) if age >= self.tokens.len()) {
            // An invented token may be taken for another worker's, which is not told apart here.
            return;
        }
        self.settle(asker.flow);
        let client = self.client(asker);
        let mut attributes = match wish {
            Wish::V4 => udp(),
            Wish::V6 => udp_and(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]),
            Wish::Both => udp_and(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
            Wish::Even => udp_and(AttributeType::EVEN_PORT, &[0]),
            Wish::EvenV6 => [
                udp_and(AttributeType::EVEN_PORT, &[0]),
                vec![(AttributeType::REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0])],
            ]
            .concat(),
            Wish::WithNextPort => udp_and(AttributeType::EVEN_PORT, &[0x80]),
            Wish::Held(age) => {
                udp_and(AttributeType::RESERVATION_TOKEN, &self.tokens[self.tokens.len() - 1 - age])
            }
        };
        if is_mobile {
            attributes.push((AttributeType::MOBILITY_TICKET, vec![]));
        }
        let wanted = if let Wish::Held(age) = wish { self.tokens.len().checked_sub(1 + age) } else { None };
        let held = self.held.iter().position(|held| Some(held.token) == wanted && held.user == asker.user);
        let answer = self.world.ask(&client, Method::ALLOCATE, attributes);
        let code = answer.code.map(crate::stun::ErrorCode::number);
        if self.at(asker.flow).is_some() {
            return assert_eq!(code, Some(437));
        }
        if matches!(wish, Wish::Held(_)) && held.is_none() {
            return assert_eq!(code, Some(508));
        }
        assert_eq!(code, None);
        if let Some(held) = held {
            self.held.remove(held);
        }
        let ends = self.now() + Duration::from_secs(600);
        let families: &[bool] = match wish {
            Wish::V4 | Wish::Even | Wish::WithNextPort | Wish::Held(_) => &[true],
            Wish::V6 | Wish::EvenV6 => &[false],
            Wish::Both => &[true, false],
        };
        // The lowest free numbers, as a slab gives out.
        let ids: Vec<_> = self.world.server.clients.all(client.flow).map(|id| id.0).collect();
        assert_eq!(ids.len(), families.len());
        let relay =
            |(id, is_v4): (usize, bool)| Relay { id, is_v4, ends, permissions: vec![], channels: vec![] };
        let relays = ids.into_iter().zip(families.iter().copied()).map(relay).collect();
        let message = answer.message();
        let relayed = message.find_xor_address(AttributeType::XOR_RELAYED_ADDRESS).unwrap();
        assert_eq!(relayed.is_ipv4(), families[0]);
        if matches!(wish, Wish::Even | Wish::EvenV6 | Wish::WithNextPort) {
            assert_eq!(relayed.port() % 2, 0);
        }
        let token = message.find(AttributeType::RESERVATION_TOKEN).map(<[u8]>::to_vec);
        assert_eq!(token.is_some(), matches!(wish, Wish::WithNextPort));
        if let Some(token) = token {
            let id = self.world.server.held_ports[token.as_slice()].0;
            let ends = self.now() + Duration::from_secs(30);
            self.held.push(Held { token: self.tokens.len(), id, user: asker.user, ends });
            self.tokens.push(token);
        }
        let given = message.find(AttributeType::MOBILITY_TICKET).map(<[u8]>::to_vec);
        assert_eq!(given.is_some(), is_mobile);
        let ticket = given.map(|given| (self.give(given), None));
        self.holders.push(Holder { flow: asker.flow, user: asker.user, relays, ticket, moving_to: None });
    }

    fn give(&mut self, ticket: Vec<u8>) -> usize {
        assert!(!self.tickets.contains(&ticket), "a ticket for two");
        self.tickets.push(ticket);
        self.tickets.len() - 1
    }

    fn refresh(&mut self, asker: Asker, family: Option<u8>, seconds: u32, ticket: Ticket) {
        self.settle(asker.flow);
        let client = self.client(asker);
        let mut attributes = vec![lifetime(seconds)];
        let used = match ticket {
            Ticket::Given(age) => self.tickets.len().checked_sub(1 + age),
            Ticket::None | Ticket::Invented => None,
        };
        let shown = match ticket {
            Ticket::None => None,
            Ticket::Invented => Some(vec![b'A'; 32]),
            Ticket::Given(_) => used.map(|used| self.tickets[used].clone()),
        };
        attributes.extend(shown.iter().map(|shown| (AttributeType::MOBILITY_TICKET, shown.clone())));
        attributes
            .extend(family.map(|family| (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![family, 0, 0, 0])));
        let answer = self.world.ask(&client, Method::REFRESH, attributes);
        let code = answer.code.map(crate::stun::ErrorCode::number);
        let of_ticket = |holder: &Holder| {
            let (latest, before) = holder.ticket.unzip();
            used.is_some() && (latest == used || before.flatten() == used)
        };
        let here = self.at(asker.flow);
        let holder = match (here, &shown) {
            (Some(here), _) => here,
            (None, None) => return assert_eq!(code, Some(437)),
            (None, Some(_)) if used.is_none() => return assert_eq!(code, Some(400)),
            (None, Some(_)) => match self.holders.iter().position(of_ticket) {
                Some(holder) => holder,
                None => return assert_eq!(code, Some(437)),
            },
        };
        let is_own_ticket = of_ticket(&self.holders[holder]);
        let now = self.now();
        let found = &mut self.holders[holder];
        if found.user != asker.user {
            return assert_eq!(code, Some(441));
        }
        if shown.is_some() && !is_own_ticket {
            return assert_eq!(code, Some(400));
        }
        let is_meant = |relay: &Relay| family.is_none_or(|family| relay.is_v4 == (family == 1));
        if !found.relays.iter().any(is_meant) {
            return assert_eq!(code, Some(443));
        }
        assert_eq!(code, None);
        if seconds == 0 {
            found.relays.retain(|relay| !is_meant(relay));
        } else {
            let ends = now + Duration::from_secs(seconds.clamp(600, 3600).into());
            found.relays.iter_mut().filter(|relay| is_meant(relay)).for_each(|relay| relay.ends = ends);
            if here.is_none() {
                found.moving_to = Some(asker.flow);
            }
        }
        let is_gone = found.relays.is_empty();
        let given = answer.message().find(AttributeType::MOBILITY_TICKET).map(<[u8]>::to_vec);
        assert_eq!(given.is_some(), used.is_some() && shown.is_some() && !is_gone, "a ticket for a ticket");
        if let Some(given) = given {
            let given = self.give(given);
            self.holders[holder].ticket = Some((given, used));
        }
        self.holders.retain(|holder| !holder.relays.is_empty());
    }

    fn permit(&mut self, asker: Asker, peer: usize) {
        self.settle(asker.flow);
        let client = self.client(asker);
        let address = self.world.peer(PEERS[peer]);
        let code = self.world.code(&client, Method::CREATE_PERMISSION, vec![address]);
        let now = self.now();
        match self.relay_for(asker, peer) {
            Err(expected) => assert_eq!(code, Some(expected)),
            Ok(_) if is_out_of_bounds(peer) => assert_eq!(code, Some(403)),
            Ok(relay) => {
                assert_eq!(code, None);
                relay.permit(peer, now);
            }
        }
    }

    /// Which of its relays reaches this peer, or why none does.
    fn relay_for(&mut self, asker: Asker, peer: usize) -> Result<&mut Relay, u16> {
        let holder = self.at(asker.flow).ok_or(437u16)?;
        let holder = &mut self.holders[holder];
        if holder.user != asker.user {
            return Err(441);
        }
        holder.relays.iter_mut().find(|relay| relay.is_v4 == is_v4(peer)).ok_or(443)
    }

    fn bind(&mut self, asker: Asker, channel: u16, peer: usize) {
        self.settle(asker.flow);
        let client = self.client(asker);
        let code = self.world.bind_code(&client, channel, PEERS[peer]);
        let now = self.now();
        let taken: Vec<_> = self
            .at(asker.flow)
            .into_iter()
            .flat_map(|at| self.holders[at].relays.iter().flat_map(|relay| relay.channels.clone()))
            .collect();
        let conflicts = |(bound, to, _): &(u16, usize, Duration)| (*bound == channel) != (*to == peer);
        match self.relay_for(asker, peer) {
            Err(expected) => assert_eq!(code, Some(expected)),
            Ok(_) if is_out_of_bounds(peer) => assert_eq!(code, Some(403)),
            Ok(_) if taken.iter().any(conflicts) => assert_eq!(code, Some(400)),
            Ok(relay) => {
                assert_eq!(code, None);
                relay.permit(peer, now);
                relay.channels.retain(|(bound, _, _)| *bound != channel);
                relay.channels.push((channel, peer, now + Duration::from_secs(600)));
            }
        }
    }

    fn send(&mut self, flow: usize, peer: usize) {
        self.settle(flow);
        let client = self.client(Asker { flow, user: 0 });
        self.world.send(&client, PEERS[peer], b"data");
        let by =
            self.at(flow).and_then(|at| self.holders[at].relays.iter().find(|relay| relay.permits(peer)));
        let by = by.map(|relay| (relay.id, PEERS[peer].to_owned()));
        self.went_to_peer(by);
    }

    fn send_by_channel(&mut self, flow: usize, channel: u16) {
        self.settle(flow);
        let client = self.client(Asker { flow, user: 0 });
        self.world.send_by_channel(&client, channel, b"data");
        let relays = self.at(flow).map(|at| self.holders[at].relays.clone()).unwrap_or_default();
        let by = relays.iter().find_map(|relay| {
            let (_, peer, _) = relay.channels.iter().find(|(bound, _, _)| *bound == channel)?;
            relay.permits(*peer).then(|| (relay.id, PEERS[*peer].to_owned()))
        });
        self.went_to_peer(by);
    }

    /// What was sent, and nothing else but routes that follow a client.
    fn went_to_peer(&mut self, expected: Option<(usize, String)>) {
        let sent = self.other_actions();
        let sent = sent.iter().map(|action| {
            let Action::SendToPeer { allocation, peer, .. } = action else { panic!("{action:?}") };
            (allocation.0, peer.to_string())
        });
        assert_eq!(sent.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
    }

    fn receive(&mut self, relay: usize, peer: usize) {
        let all: Vec<_> = self
            .holders
            .iter()
            .flat_map(|holder| holder.relays.iter().map(|relay| (holder.flow, relay.clone())))
            .collect();
        let Some((flow, relay)) = all.get(relay).cloned() else { return self.receive_at_held(peer) };
        self.world.receive(relay.id, PEERS[peer], b"data");
        let channel = relay.channels.iter().find(|(_, to, _)| *to == peer).map(|(channel, _, _)| *channel);
        match &self.other_actions()[..] {
            [] => assert!(!relay.permits(peer)),
            [Action::SendToClient { flow: to, message, data_bytes: 4, .. }] => {
                assert!(relay.permits(peer));
                assert_eq!(to.client.to_string(), FLOWS[flow]);
                let first = u16::from_be_bytes([message[0], message[1]]);
                assert_eq!(Some(first).filter(|first| *first >= 0x4000), channel);
            }
            other => panic!("{other:?}"),
        }
    }

    /// A port that is nobody's has no permissions.
    fn receive_at_held(&mut self, peer: usize) {
        for held in self.held.clone() {
            self.world.receive(held.id, PEERS[peer], b"data");
            assert_eq!(self.other_actions(), []);
        }
    }

    fn close(&mut self, flow: usize) {
        let client = self.client(Asker { flow, user: 0 });
        self.world.server.handle_flow_closed(client.flow);
        self.world.act();
        match self.at(flow) {
            Some(at) => match (self.holders[at].moving_to, self.holders[at].ticket) {
                // With the old way gone there is but the new one.
                (Some(to), _) => self.settle(to),
                (None, Some(_)) => {}
                (None, None) => drop(self.holders.remove(at)),
            },
            None => {
                for holder in &mut self.holders {
                    holder.moving_to = holder.moving_to.filter(|to| *to != flow);
                }
            }
        }
    }

    /// The other one installs all routes anew, and nothing else can be seen of it.
    fn upgrade(&mut self) {
        self.world.upgrade();
        self.routes.clear();
    }

    fn wait(&mut self, by: Duration) {
        self.world.advance(by);
        let now = self.now();
        for holder in &mut self.holders {
            holder.relays.retain(|relay| relay.ends > now);
            for relay in &mut holder.relays {
                relay.permissions.retain(|(_, ends)| *ends > now);
                relay.channels.retain(|(_, _, ends)| *ends > now);
            }
        }
        self.holders.retain(|holder| !holder.relays.is_empty());
        self.held.retain(|held| held.ends > now);
    }

    /// Follows the routes, and gives back what is not about them.
    fn other_actions(&mut self) -> Vec<Action> {
        let mut others = Vec::new();
        for action in self.world.actions() {
            if let Action::InstallRoute(route) = action {
                assert!(self.routes.insert(route), "installed twice: {route:?}");
            } else if let Action::RemoveRoute(route) = action {
                assert!(self.routes.remove(&route), "not there: {route:?}");
            } else if let Action::CloseRelay { allocation } = action {
                let outlives = self.routes.iter().any(|route| route.allocation == allocation);
                assert!(!outlives, "a route outlives {allocation:?}");
            } else {
                others.push(action);
            }
        }
        others
    }

    fn follow_routes(&mut self) {
        assert_eq!(self.other_actions(), []);
    }

    /// A route is in the table exactly while a channel and its peer's permission both live, at its client's address.
    fn compare(&mut self) {
        let mut expected = BTreeSet::new();
        for holder in self.holders.clone() {
            let flow = self.client(Asker { flow: holder.flow, user: holder.user }).flow;
            let ids: Vec<_> = self.world.server.clients.all(flow).map(|id| id.0).collect();
            assert_eq!(ids, holder.relays.iter().map(|relay| relay.id).collect::<Vec<_>>());
            for relay in &holder.relays {
                for (channel, peer, _) in relay.channels.iter().filter(|(_, peer, _)| relay.permits(*peer)) {
                    let channel = ChannelNumber::new(*channel).unwrap();
                    let peer = PeerAddr(PEERS[*peer].parse().unwrap());
                    expected.insert(Route { flow, allocation: AllocationId(relay.id), channel, peer });
                }
            }
        }
        assert_eq!(self.routes, expected);
        let relays = || self.holders.iter().flat_map(|holder| &holder.relays);
        let deadlines: usize = relays().map(|relay| 1 + relay.permissions.len() + relay.channels.len()).sum();
        assert_eq!(self.world.server.allocation_count(), relays().count() + self.held.len());
        assert_eq!(self.world.server.held_ports.len(), self.held.len());
        assert_eq!(
            self.world.server.deadlines.len(),
            deadlines + self.held.len(),
            "a deadline without its end"
        );
        let is_mobile = self.holders.iter().any(|holder| holder.ticket.is_some());
        assert_eq!(
            !self.world.server.mobiles.is_empty(),
            is_mobile,
            "who may move is remembered, nobody else"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_sequence_of_moves_and_families_looks_like_the_model(operations in proptest::collection::vec(operation(), 1..80)) {
        let mut pair = Pair::new();
        for operation in &operations {
            pair.run(operation);
        }
    }
}
