//! The machine and the model side by side: each event to both, and then they are compared.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::super::world::{self, Attributes, Client, RELAY_IP, World, lifetime};
use super::super::*;
use super::lists::{Model, Question, Stage};
use super::operation::{Asker, Operation, Which, Wish};
use super::{Effect, FORBIDDEN_AT_TIMES, SERVER, USERS, flow, peer};
use crate::policy::{OwnRelays, PeerPolicy, peer as policy};
use crate::stun::{AttributeType, Class, ErrorCode, Message, Method};

pub(super) struct Pair {
    world: World,
    model: Model,
    /// All numbers of connections that were ever drawn.
    drawn: Vec<u32>,
    /// What a driver has open: connection, allocation.
    open: Vec<(u32, usize)>,
    /// So that everybody who comes by another stream does.
    streams: u16,
}

impl Pair {
    pub(super) fn new() -> Self {
        let world = World::with(|config| config.addresses.relay_v6 = Some("2606:4700::1".parse().unwrap()));
        Self { world, model: Model::default(), drawn: vec![], open: vec![], streams: 0 }
    }

    pub(super) fn run(&mut self, operation: &Operation) {
        match *operation {
            Operation::Allocate { asker, wish } => self.allocate(asker, wish),
            Operation::Refresh { asker, seconds } => self.refresh(asker, seconds),
            Operation::Permit { asker, peer } => self.permit(asker, peer),
            Operation::Bind { asker, channel, peer } => self.bind(asker, channel, peer),
            Operation::Send { flow, peer } => self.send(flow, peer),
            Operation::Receive { relay, peer } => self.receive(relay, peer),
            Operation::Connect { asker, peer } => self.connect(asker, peer),
            Operation::Went { which, is_connected } => self.went(which, is_connected),
            Operation::Knock { relay, peer, first_port, count, is_met } => {
                self.knock(relay, peer, first_port..first_port + count, is_met);
            }
            Operation::Come { asker, which } => self.come_for(asker, which),
            Operation::ComeForAll { relay } => self.come_for_all(relay),
            Operation::End { which } => self.end(which),
            Operation::Close { flow } => self.close(flow),
            Operation::CloseRelay { relay } => self.close_relay(relay),
            Operation::Forbid { is_forbidden } => self.forbid(is_forbidden),
            Operation::Snapshot => self.snapshot(),
            Operation::Wait { seconds } => self.wait(Duration::from_secs(seconds)),
        }
        self.compare();
    }

    fn allocate(&mut self, asker: Asker, wish: Wish) {
        let transport = match wish {
            Wish::Udp => 17,
            Wish::Other => 33,
            Wish::Tcp | Wish::TcpV6 | Wish::TcpMobile => 6,
            Wish::TcpEvenPort | Wish::TcpHeldPort | Wish::TcpUnfragmented | Wish::TcpBothFamilies => 6,
        };
        let more = match wish {
            Wish::Udp | Wish::Tcp | Wish::Other => None,
            Wish::TcpV6 => Some((AttributeType::REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0])),
            Wish::TcpMobile => Some((AttributeType::MOBILITY_TICKET, vec![])),
            Wish::TcpEvenPort => Some((AttributeType::EVEN_PORT, vec![0])),
            Wish::TcpHeldPort => Some((AttributeType::RESERVATION_TOKEN, vec![7; 8])),
            Wish::TcpUnfragmented => Some((AttributeType::DONT_FRAGMENT, vec![])),
            Wish::TcpBothFamilies => Some((AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0])),
        };
        let transport = (AttributeType::REQUESTED_TRANSPORT, vec![transport, 0, 0, 0]);
        let attributes = [transport].into_iter().chain(more).collect();
        let Some((question, seen)) = self.ask(asker, Method::ALLOCATE, attributes) else { return };
        let id = self.world.server.clients.all(question.flow).next().map(|id| id.0);
        let expected = self.model.allocate(question, wish, id);
        self.check(seen, expected);
    }

    fn refresh(&mut self, asker: Asker, seconds: u32) {
        let Some((question, seen)) = self.ask(asker, Method::REFRESH, vec![lifetime(seconds)]) else {
            return;
        };
        let expected = self.model.refresh(question, seconds);
        self.check(seen, expected);
    }

    fn permit(&mut self, asker: Asker, at: usize) {
        let attributes = vec![self.world.peer_address(peer(at))];
        let Some((question, seen)) = self.ask(asker, Method::CREATE_PERMISSION, attributes) else { return };
        let expected = self.model.permit(question, peer(at));
        self.check(seen, expected);
    }

    fn bind(&mut self, asker: Asker, channel: u16, at: usize) {
        let attributes = vec![world::channel_number(channel), self.world.peer_address(peer(at))];
        let Some((question, seen)) = self.ask(asker, Method::CHANNEL_BIND, attributes) else { return };
        let expected = self.model.bind(question, channel, peer(at));
        self.check(seen, expected);
    }

    fn send(&mut self, by: usize, to: usize) {
        if self.model.carried_by(flow(by)).is_some() {
            return;
        }
        let client = self.client(flow(by), 0);
        self.world.send(&client, &peer(to).to_string(), b"data");
        let seen = self.seen();
        let expected = self.model.send(flow(by), peer(to));
        self.check(seen, expected);
    }

    fn receive(&mut self, relay: usize, from: usize) {
        let Some(relay) = self.model.allocations.get(relay).map(|held| held.id) else { return };
        self.world.receive(relay, &peer(from).to_string(), b"data");
        let seen = self.seen();
        let expected = self.model.receive(relay, peer(from));
        self.check(seen, expected);
    }

    fn connect(&mut self, asker: Asker, to: Option<usize>) {
        let attributes = to.map(|to| self.world.peer_address(peer(to))).into_iter().collect();
        let Some((question, seen)) = self.ask(asker, Method::CONNECT, attributes) else { return };
        let drawn = seen.iter().find_map(|effect| {
            let Effect::Connecting { connection, .. } = effect else { return None };
            Some(*connection)
        });
        self.drawn.extend(drawn);
        let expected = self.model.connect(question, to.map(peer), drawn);
        self.check(seen, expected);
    }

    fn went(&mut self, which: Which, is_connected: bool) {
        let Some(id) = self.find(which, Stage::is_asked) else { return };
        let waits = self.model.connections.iter().any(|found| found.id == id && found.stage.is_asked());
        if waits && !is_connected {
            self.open.retain(|(open, _)| *open != id);
        }
        self.world.server.handle_connected(self.world.now().instant, ConnectionId(id), is_connected);
        self.world.act();
        let seen = self.seen();
        let expected = self.model.went(id, is_connected);
        self.check(seen, expected);
    }

    fn knock(&mut self, at: usize, from: usize, ports: Range<u16>, is_met: bool) {
        let Some(relay) = self.model.allocations.get(at).map(|held| held.id) else { return };
        for port in ports {
            let from = SocketAddr::new(peer(from).ip(), port);
            let now = self.world.now().instant;
            let kept = self.world.server.handle_incoming(now, AllocationId(relay), PeerAddr(from));
            self.world.act();
            let drawn = kept.map(|ConnectionId(id)| id);
            self.open.extend(drawn.map(|id| (id, relay)));
            self.drawn.extend(drawn);
            let seen = self.seen();
            let expected = self.model.knock(relay, from, drawn);
            assert_eq!(drawn.is_some(), !expected.is_empty(), "it is told of just what is kept");
            self.check(seen, expected);
            if is_met {
                self.come_for_all(at);
            }
        }
    }

    fn come_for(&mut self, asker: Asker, which: Which) {
        let id = self.find(which, Stage::waits);
        let (by, user) = (flow(asker.flow), asker.user);
        let is_nothing = id.is_none() && !matches!(which, Which::None);
        if is_nothing || self.model.carried_by(by).is_some() {
            return;
        }
        let (question, seen) = self.come(by, user, id);
        let expected = match which {
            Which::Elsewhere if by.transport.is_stream() => vec![Effect::Moved { stream: by }],
            Which::Fitting(_) | Which::Any(_) | Which::Invented | Which::Elsewhere | Which::None => {
                self.model.come(question, id)
            }
        };
        self.check(seen, expected);
    }

    fn come_for_all(&mut self, relay: usize) {
        let Some(held) = self.model.allocations.get(relay).cloned() else { return };
        let waits = self.model.of(held.id).filter(|found| found.stage.waits());
        for id in waits.map(|found| found.id).collect::<Vec<_>>() {
            self.streams += 1;
            let client = ClientAddr(SocketAddr::new("192.0.2.77".parse().unwrap(), self.streams));
            let by = FiveTuple { client, ..flow(0) };
            let (question, seen) = self.come(by, held.user, Some(id));
            let expected = self.model.come(question, Some(id));
            self.check(seen, expected);
        }
    }

    fn come(&mut self, by: FiveTuple, user: usize, id: Option<u32>) -> (Question, Vec<Effect>) {
        let id = id.map(|id| (AttributeType::CONNECTION_ID, id.to_be_bytes().to_vec()));
        self.ask_by(by, user, Method::CONNECTION_BIND, id.into_iter().collect())
    }

    /// At the peer, or at the client's stream.
    fn end(&mut self, which: Which) {
        let Some(id) = self.find(which, |stage| !stage.is_asked()) else { return };
        if self.model.connections.iter().all(|found| found.id != id || !found.stage.is_asked()) {
            self.over(id);
        }
    }

    fn over(&mut self, id: u32) {
        self.world.server.handle_connection_closed(ConnectionId(id));
        self.world.act();
        self.model.end(id);
        self.open.retain(|(open, _)| *open != id);
        let seen = self.seen();
        self.check(seen, vec![]);
    }

    fn close(&mut self, at: usize) {
        if let Some(id) = self.model.carried_by(flow(at)) {
            return self.over(id);
        }
        self.world.server.handle_flow_closed(flow(at));
        self.world.act();
        let seen = self.seen();
        let expected = self.model.close(flow(at));
        self.check(seen, expected);
    }

    fn close_relay(&mut self, relay: usize) {
        let Some(relay) = self.model.allocations.get(relay).map(|held| held.id) else { return };
        self.world.server.close(AllocationId(relay), EndReason::Closed);
        self.world.act();
        let seen = self.seen();
        let expected = self.model.end_allocation(relay);
        self.check(seen, expected);
    }

    fn forbid(&mut self, is_forbidden: bool) {
        let SocketAddr::V4(at_times) = FORBIDDEN_AT_TIMES.parse().unwrap() else { panic!() };
        let denied = is_forbidden.then(|| format!("{}/32", at_times.ip()).parse().unwrap());
        let policy = PeerPolicy::new(policy::Config {
            allow: vec![],
            deny: denied.into_iter().collect(),
            unnamed: policy::Unnamed::ByDefaultList,
            listeners: vec![SERVER.parse().unwrap()],
            own: vec![RELAY_IP.parse().unwrap()],
            relays: OwnRelays::default(),
        });
        let Server { config, parts, .. } = &self.world.server;
        let rules = Rules {
            authenticator: parts.authenticator.clone(),
            budget: parts.budget.clone(),
            policy,
            channels: config.channels,
            classic_stun: config.classic_stun,
            alternates: config.alternates.clone(),
            tcp_relay: config.tcp_relay,
        };
        self.world.server.follow(rules);
        self.world.act();
        let seen = self.seen();
        let expected = self.model.forbid(is_forbidden);
        self.check(seen, expected);
    }

    /// What goes to another process is what has no connections.
    fn snapshot(&self) {
        let snapshot = self.world.server.snapshot(self.world.now().instant, |_| true);
        let mut ids: Vec<_> = snapshot.ids().map(|id| id.0).collect();
        let mut expected: Vec<_> =
            self.model.allocations.iter().filter(|held| !held.is_tcp).map(|held| held.id).collect();
        ids.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ids, expected);
    }

    fn wait(&mut self, by: Duration) {
        self.world.advance(by);
        let seen = self.seen();
        let expected = self.model.wait(by);
        self.check(seen, expected);
    }

    /// Asks, unless the stream is for something else by now.
    fn ask(
        &mut self,
        Asker { flow: by, user }: Asker,
        method: Method,
        attributes: Attributes,
    ) -> Option<(Question, Vec<Effect>)> {
        let by = flow(by);
        self.model.carried_by(by).is_none().then(|| self.ask_by(by, user, method, attributes))
    }

    fn ask_by(
        &mut self,
        by: FiveTuple,
        user: usize,
        method: Method,
        attributes: Attributes,
    ) -> (Question, Vec<Effect>) {
        let client = self.client(by, user);
        let request = self.world.request(&client, method, &attributes);
        let transaction = Message::parse(&request).unwrap().transaction_id().0;
        self.world.deliver(by, &request);
        (Question { flow: by, user, transaction }, self.seen())
    }

    fn client(&mut self, by: FiveTuple, user: usize) -> Client {
        let client = self.world.client_as(&by.client.to_string(), USERS[user], "wonder");
        Client { flow: by, ..client }
    }

    fn find(&mut self, which: Which, fits: fn(Stage) -> bool) -> Option<u32> {
        match which {
            Which::Fitting(age) => {
                let fitting = self.model.connections.iter().rev().filter(|found| fits(found.stage));
                fitting.map(|found| found.id).nth(age)
            }
            Which::Any(age) => self.drawn.iter().rev().nth(age).copied(),
            Which::Invented => Some(0xDEAD_BEEF),
            Which::Elsewhere => {
                let parts = &mut self.world.server.parts;
                Some(parts.handles.of_worker(1).new_connection(&mut parts.rng).0)
            }
            Which::None => None,
        }
    }

    /// What there was to see, and a driver's books of it.
    fn seen(&mut self) -> Vec<Effect> {
        let actions = self.world.actions();
        actions.into_iter().filter_map(|action| self.read(action)).collect()
    }

    fn read(&mut self, action: Action) -> Option<Effect> {
        Some(match action {
            Action::Respond { flow, message } => told(flow, &message),
            Action::SendToClient { flow, .. } => Effect::SentToClient { to: flow },
            Action::SendToPeer { allocation, peer, .. } => {
                Effect::SentToPeer { from: allocation.0, peer: peer.0 }
            }
            Action::CloseRelay { allocation: AllocationId(relay) } => {
                assert!(self.open.iter().all(|(_, of)| *of != relay), "a connection outlives {relay}");
                Effect::RelayClosed { relay }
            }
            Action::Connect { allocation, connection, peer } => {
                self.open.push((connection.0, allocation.0));
                Effect::Connecting { from: allocation.0, connection: connection.0, peer: peer.0 }
            }
            Action::Splice { connection, flow } => Effect::Spliced { connection: connection.0, with: flow },
            Action::Disconnect { connection: ConnectionId(connection) } => {
                self.open.retain(|(open, _)| *open != connection);
                Effect::Disconnected { connection }
            }
            Action::MoveStream { flow, worker, .. } => {
                assert_eq!(worker, 1);
                Effect::Moved { stream: flow }
            }
            // These are followed by the other models.
            Action::InstallRoute(_) | Action::RemoveRoute(_) => return None,
            Action::OpenRelay { .. } | Action::LookUp(_) | Action::HandOver { .. } => panic!("{action:?}"),
        })
    }

    /// At one moment things may happen in any order.
    #[track_caller]
    fn check(&self, mut seen: Vec<Effect>, mut expected: Vec<Effect>) {
        seen.sort();
        expected.sort();
        assert_eq!(seen, expected);
    }

    /// What the operator can see, and that nothing is left behind.
    fn compare(&self) {
        let server = &self.world.server;
        let mut seen: Vec<_> = server
            .allocations()
            .map(|found| {
                let ends = found.expires_at - self.world.start;
                let of = (found.id.0, found.flow, found.user.account.to_string());
                let is_tcp = found.protocol == RelayProtocol::Tcp;
                (of, is_tcp, found.relayed.0.is_ipv4(), ends, found.permissions, found.channels)
            })
            .collect();
        let mut expected: Vec<_> = self
            .model
            .allocations
            .iter()
            .map(|held| {
                let of = (held.id, held.flow, USERS[held.user].to_owned());
                (of, held.is_tcp, held.is_v4, held.ends, held.permissions.len(), held.channels.len())
            })
            .collect();
        seen.sort();
        expected.sort();
        assert_eq!(seen, expected);
        let living = &self.model.connections;
        assert_eq!(server.connections.len(), living.len(), "a connection without its end");
        assert_eq!(self.open.len(), living.len(), "a driver has open what there is");
        let timed = living.iter().filter(|found| !matches!(found.stage, Stage::Carried { .. })).count();
        let of_allocations: usize = expected.iter().map(|held| 1 + held.4 + held.5).sum();
        assert_eq!(server.deadlines.len(), timed + of_allocations, "a deadline without its end");
    }
}

fn told(to: FiveTuple, message: &[u8]) -> Effect {
    let message = Message::parse(message).unwrap();
    let id = message.find(AttributeType::CONNECTION_ID);
    let connection = id.map(|id| u32::from_be_bytes(id.try_into().unwrap()));
    if message.class() == Class::Indication {
        assert_eq!(message.method(), Method::CONNECTION_ATTEMPT);
        let peer = message.find_xor_address(AttributeType::XOR_PEER_ADDRESS).unwrap();
        return Effect::Attempted { to, connection: connection.unwrap(), peer };
    }
    assert!(message.find(AttributeType::MOBILITY_TICKET).is_none(), "what has connections does not move");
    let code = message.find(AttributeType::ERROR_CODE).map(|value| ErrorCode::parse(value).unwrap().number());
    assert_eq!(message.class(), if code.is_some() { Class::Error } else { Class::Success });
    Effect::Answered { to, transaction: message.transaction_id().0, code, connection }
}
