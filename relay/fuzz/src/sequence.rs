//! Any bytes as a script of datagrams, peers, failures and time for the state machine.
//!
//! The script can sign requests, so that it gets past authentication; what is wrong with them then is up to it.
//! Checked after every step: answers are messages, one at most and to whoever asked; routes and relays come and go
//! in order; deadlines move. At the end all is left to expire, and nothing may remain.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farcall_proto::turn_credentials::UnixTime;
use farcall_relay::auth::{self, Authenticator, NonceKey, RealmConfig, StaticUser};
use farcall_relay::clock;
use farcall_relay::metrics::WorkerMetrics;
use farcall_relay::policy::{Meter, OwnRelays, PeerPolicy, UnauthenticatedBudget, peer};
use farcall_relay::routes::Routes;
use farcall_relay::stun::address::EncodedAddress;
use farcall_relay::stun::{
    AttributeType, Class, IntegrityKey, Message, MessageWriter, Method, TransactionId,
};
use farcall_relay::turn::{
    Action, AddressPair, Addresses, AllocationId, Alternates, ChannelRange, ClassicStun, ClientAddr, Config,
    ConnectionId, Discovery, FiveTuple, Handles, Lifetimes, Now, Parts, PeerAddr, RelayError, Route, Server,
    TcpRelay, Transport,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const REALM: &str = "fuzz";
const USER: &str = "u";
const PASSWORD: &str = "p";
/// Long enough for everything to end: allocations live for an hour at most.
const ALL_TIME: Duration = Duration::from_secs(2 * 3600);

/// One step of a script, as its first byte says. What follows is read by the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Client, length, then a datagram as it is.
    Datagram,
    /// Client, method, count, then attributes: type, length, value. Signed.
    Request,
    /// Client, channel, peer. Signed.
    ChannelBind,
    /// Client, peer. Signed.
    CreatePermission,
    /// Client, peer, then data.
    Send,
    /// Allocation, peer, then data.
    FromPeer,
    /// Seconds, two bytes.
    Wait,
    /// How the next relay opens.
    NextRelay,
    /// Client.
    CloseFlow,
    /// Client, what it wishes for: families, an even port, the next one too, a ticket. Signed.
    Allocate,
    /// Client, which of the tokens that were given out. Signed.
    Claim,
    /// Client, which of the tickets that were given out, seconds, two bytes. Signed.
    Move,
    /// Client, what it wishes for, most of which is not for TCP. Signed.
    AllocateTcp,
    /// Client, peer. Signed.
    Connect,
    /// Which of the connections, and whether it is there.
    Connected,
    /// Allocation, peer: it connects.
    Incoming,
    /// Client, which of the connections. Signed.
    ConnectionBind,
    /// Which of the connections: one of its ends is closed.
    EndConnection,
}

impl Step {
    const ALL: [Self; 18] = [
        Self::Datagram,
        Self::Request,
        Self::ChannelBind,
        Self::CreatePermission,
        Self::Send,
        Self::FromPeer,
        Self::Wait,
        Self::NextRelay,
        Self::CloseFlow,
        Self::Allocate,
        Self::Claim,
        Self::Move,
        Self::AllocateTcp,
        Self::Connect,
        Self::Connected,
        Self::Incoming,
        Self::ConnectionBind,
        Self::EndConnection,
    ];
}

/// Panics if the state machine contradicts itself.
pub fn run(bytes: &[u8]) {
    let mut script = Script(bytes);
    let mut stage = Stage::new();
    while let Some(step) = script.step() {
        stage.perform(step, &mut script);
    }
    stage.wait(ALL_TIME);
    assert_eq!(stage.server.allocation_count(), 0);
    assert_eq!(stage.server.poll_timeout(), None);
    assert!(stage.connections.is_empty(), "a connection outlives its allocation");
    assert!(stage.relays.is_empty() && stage.installed.is_empty() && stage.routes.is_empty());
}

/// Reads a script; past its end everything is zero.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn step(&mut self) -> Option<Step> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(Step::ALL[usize::from(*first) % Step::ALL.len()])
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

struct Stage {
    server: Server<ChaCha20Rng>,
    nonces: Authenticator,
    start: Instant,
    elapsed: Duration,
    transactions: u64,
    relays: BTreeMap<AllocationId, SocketAddr>,
    own_relays: OwnRelays,
    installed: BTreeSet<Route>,
    routes: Routes,
    next_relay: Result<(), RelayError>,
    /// What answers gave to come back with.
    tokens: Vec<Vec<u8>>,
    tickets: Vec<Vec<u8>>,
    /// What is open of TCP allocations.
    connections: BTreeMap<ConnectionId, Connection>,
}

/// A connection as a driver has it.
struct Connection {
    allocation: AllocationId,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Connecting,
    Waiting,
    /// It is this stream's, of which nothing is read any more.
    Spliced(FiveTuple),
}

impl Stage {
    fn new() -> Self {
        let start = clock::now();
        let realm = RealmConfig {
            name: REALM.into(),
            users: vec![StaticUser { name: USER.into(), password: PASSWORD.into() }],
            ..RealmConfig::default()
        };
        let auth = auth::Config { default_realm: realm, ..auth::Config::default() };
        let nonces = NonceKey::new(&mut ChaCha20Rng::seed_from_u64(1), start);
        let addresses = Addresses {
            relay_v4: Some([198, 51, 100, 1].into()),
            relay_v6: Some("2606:4700::1".parse().expect("an address")),
            external_v4: Some([198, 51, 100, 2].into()),
            external_v6: None,
            ports: 50000..=50003,
        };
        let own_relays = OwnRelays::default();
        let policy = PeerPolicy::new(peer::Config {
            allow: Vec::new(),
            deny: Vec::new(),
            unnamed: peer::Unnamed::ByDefaultList,
            listeners: vec![server_address()],
            own: vec![[198, 51, 100, 1].into(), [198, 51, 100, 2].into()],
            relays: own_relays.clone(),
        });
        let config = Config {
            addresses,
            lifetimes: Lifetimes::default(),
            channels: ChannelRange::Rfc8656,
            classic_stun: ClassicStun::Answered,
            discovery: Discovery::new(vec![AddressPair {
                primary: SocketAddr::from(([198, 51, 100, 1], 3478)),
                alternate: SocketAddr::from(([198, 51, 100, 2], 3479)),
            }]),
            alternates: Alternates::default(),
            tcp_relay: TcpRelay::Offered,
        };
        let authenticator = Authenticator::new(auth, nonces);
        let parts = Parts {
            authenticator: authenticator.clone(),
            budget: UnauthenticatedBudget::new(None, start),
            policy,
            metrics: Arc::new(WorkerMetrics::default()),
            handles: Handles::new(&mut ChaCha20Rng::seed_from_u64(3), 2),
            rng: ChaCha20Rng::seed_from_u64(2),
        };
        Self {
            server: Server::new(config, parts),
            nonces: authenticator,
            start,
            elapsed: Duration::ZERO,
            transactions: 0,
            relays: BTreeMap::new(),
            own_relays,
            installed: BTreeSet::new(),
            routes: Routes::default(),
            next_relay: Ok(()),
            tokens: Vec::new(),
            tickets: Vec::new(),
            connections: BTreeMap::new(),
        }
    }

    fn perform(&mut self, step: Step, script: &mut Script<'_>) {
        match step {
            Step::Datagram => {
                let flow = flow(script.byte());
                let length = script.word();
                self.deliver(flow, script.bytes(length.into()));
            }
            Step::Request => {
                let flow = flow(script.byte());
                let method = Method::new(script.byte().into()).expect("eight bits are fewer than twelve");
                let attributes: Vec<_> = (0..script.byte() % 8)
                    .map(|_| {
                        let (kind, length) = (AttributeType(script.word()), script.byte());
                        (kind, script.bytes(length.into()).to_vec())
                    })
                    .collect();
                self.request(flow, method, &attributes);
            }
            Step::ChannelBind => {
                let flow = flow(script.byte());
                let number = [script.byte(), script.byte(), 0, 0];
                let peer = self.peer_attribute(script.byte());
                let attributes = [(AttributeType::CHANNEL_NUMBER, number.to_vec()), peer];
                self.request(flow, Method::CHANNEL_BIND, &attributes);
            }
            Step::CreatePermission => {
                let flow = flow(script.byte());
                let peer = self.peer_attribute(script.byte());
                self.request(flow, Method::CREATE_PERMISSION, &[peer]);
            }
            Step::Send => {
                let flow = flow(script.byte());
                let peer = self.peer_attribute(script.byte());
                let length = script.byte();
                let attributes = [peer, (AttributeType::DATA, script.bytes(length.into()).to_vec())];
                let mut message = Vec::new();
                self.write(&mut message, Class::Indication, Method::SEND, &attributes);
                self.deliver(flow, &message);
            }
            Step::FromPeer => {
                let (allocation, peer) =
                    (AllocationId((script.byte() % 8).into()), PeerAddr(peer(script.byte())));
                let length = script.word();
                self.server.handle_peer_datagram(allocation, peer, script.bytes(length.into()));
                assert_eq!(self.act(None), 0, "a peer is never answered");
            }
            Step::Wait => {
                let seconds = script.word();
                self.wait(Duration::from_secs(seconds.into()));
            }
            Step::NextRelay => {
                self.next_relay = match script.byte() % 4 {
                    0 => Ok(()),
                    1 => Err(RelayError::AddressInUse),
                    2 => Err(RelayError::QuotaReached),
                    _ => Err(RelayError::Unavailable),
                };
            }
            Step::CloseFlow => {
                let flow = flow(script.byte());
                match self.spliced(flow) {
                    Some(connection) => self.end(connection),
                    None => self.server.handle_flow_closed(flow),
                }
                assert_eq!(self.act(None), 0);
            }
            Step::Allocate => {
                let flow = flow(script.byte());
                let wish = wish(udp(), script.byte());
                self.request(flow, Method::ALLOCATE, &wish);
            }
            Step::Claim => {
                let flow = flow(script.byte());
                let token = pick(&self.tokens, script.byte());
                let attributes = [udp(), (AttributeType::RESERVATION_TOKEN, token)];
                self.request(flow, Method::ALLOCATE, &attributes);
            }
            Step::Move => {
                let flow = flow(script.byte());
                let ticket = pick(&self.tickets, script.byte());
                let lifetime = u32::from(script.word()).to_be_bytes().to_vec();
                let attributes =
                    [(AttributeType::MOBILITY_TICKET, ticket), (AttributeType::LIFETIME, lifetime)];
                self.request(flow, Method::REFRESH, &attributes);
            }
            Step::AllocateTcp => {
                let flow = flow(script.byte());
                let wish = wish((AttributeType::REQUESTED_TRANSPORT, vec![6, 0, 0, 0]), script.byte());
                self.request(flow, Method::ALLOCATE, &wish);
            }
            Step::Connect => {
                let flow = flow(script.byte());
                let peer = self.peer_attribute(script.byte());
                self.request(flow, Method::CONNECT, &[peer]);
            }
            Step::Connected => {
                let (choice, is_connected) = (script.byte(), script.byte() & 1 == 0);
                if let Some(id) = self.connection(choice) {
                    self.connected(id, is_connected);
                }
            }
            Step::Incoming => {
                let (allocation, peer) =
                    (AllocationId((script.byte() % 8).into()), PeerAddr(peer(script.byte())));
                if let Some(id) = self.server.handle_incoming(self.now().instant, allocation, peer) {
                    assert!(self.relays.contains_key(&allocation));
                    let before = self.connections.insert(id, Connection { allocation, end: End::Waiting });
                    assert!(before.is_none(), "two connections of one number");
                }
                assert_eq!(self.act(None), 0, "a peer is never answered");
            }
            Step::ConnectionBind => {
                let (flow, choice) = (flow(script.byte()), script.byte());
                let id = self.connection(choice).unwrap_or_else(|| ConnectionId(choice.into()));
                let attributes = [(AttributeType::CONNECTION_ID, id.0.to_be_bytes().to_vec())];
                self.request(flow, Method::CONNECTION_BIND, &attributes);
            }
            Step::EndConnection => {
                let id = self.connection(script.byte());
                if let Some(id) = id.filter(|id| self.connections[id].end != End::Connecting) {
                    self.end(id);
                    assert_eq!(self.act(None), 0, "both ends know already");
                }
            }
        }
    }

    /// How a Connect went, at last.
    fn connected(&mut self, id: ConnectionId, is_connected: bool) {
        match self.connections.get_mut(&id) {
            Some(found) if found.end == End::Connecting && is_connected => found.end = End::Waiting,
            Some(found) if found.end == End::Connecting => drop(self.connections.remove(&id)),
            // The driver says so once.
            Some(_) | None => return,
        }
        self.server.handle_connected(self.now().instant, id, is_connected);
        assert_eq!(self.act(None), 0);
    }

    fn end(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.server.handle_connection_closed(id);
    }

    /// One of those there are.
    fn connection(&self, choice: u8) -> Option<ConnectionId> {
        self.connections.keys().nth(usize::from(choice) % self.connections.len().max(1)).copied()
    }

    fn spliced(&self, flow: FiveTuple) -> Option<ConnectionId> {
        self.connections.iter().find(|(_, found)| found.end == End::Spliced(flow)).map(|(id, _)| *id)
    }

    fn request(&mut self, flow: FiveTuple, method: Method, attributes: &[(AttributeType, Vec<u8>)]) {
        let nonce = self.nonces.challenge(self.now().instant, flow.ends()).nonce;
        let mut message = Vec::new();
        self.write(&mut message, Class::Request, method, attributes)
            .attribute(AttributeType::USERNAME, USER.as_bytes())
            .attribute(AttributeType::REALM, REALM.as_bytes())
            .attribute(AttributeType::NONCE, nonce.as_bytes())
            .integrity(&IntegrityKey::long_term_md5(USER, REALM, PASSWORD));
        self.transactions += 1;
        self.deliver(flow, &message);
    }

    fn write<'b>(
        &self,
        message: &'b mut Vec<u8>,
        class: Class,
        method: Method,
        attributes: &[(AttributeType, Vec<u8>)],
    ) -> MessageWriter<'b> {
        let mut writer = MessageWriter::new(message, class, method, self.transaction_id());
        for (kind, value) in attributes {
            writer.attribute(*kind, value);
        }
        writer
    }

    fn peer_attribute(&self, choice: u8) -> (AttributeType, Vec<u8>) {
        let value = EncodedAddress::xor(peer(choice), &self.transaction_id()).as_bytes().to_vec();
        (AttributeType::XOR_PEER_ADDRESS, value)
    }

    /// The same for every message until a request went out, so that retransmissions come up.
    fn transaction_id(&self) -> TransactionId {
        let mut id = [0; 12];
        id[4..].copy_from_slice(&(self.transactions / 2).to_be_bytes());
        TransactionId(id)
    }

    fn deliver(&mut self, flow: FiveTuple, datagram: &[u8]) {
        if self.spliced(flow).is_some() {
            return;
        }
        let now = self.now();
        self.server.handle_datagram(now, flow, datagram);
        assert!(self.act(Some(flow)) <= 1, "one question, one answer");
    }

    fn wait(&mut self, by: Duration) {
        let end = self.elapsed + by;
        while let Some(at) = self.server.poll_timeout().filter(|at| *at <= self.start + end) {
            self.server.handle_timeout(at);
            assert!(self.server.poll_timeout().is_none_or(|next| next > at), "a deadline that stays");
            assert_eq!(self.act(None), 0, "time is never answered");
        }
        self.elapsed = end;
    }

    /// Does what a driver does, and counts the responses.
    fn act(&mut self, asker: Option<FiveTuple>) -> usize {
        let mut responses = 0;
        while let Some(action) = self.server.poll_action() {
            match action {
                Action::Respond { message, .. } if is_about_a_connection(&message) => {}
                Action::Respond { flow, message } => {
                    let ip = |flow: FiveTuple| flow.client.0.ip();
                    assert_eq!(Some(ip(flow)), asker.map(ip), "an answer to somebody else");
                    check_response(&message);
                    self.keep_handles(&message);
                    responses += 1;
                }
                Action::SendToClient { message, data_bytes, .. } => assert!(message.len() >= data_bytes + 4),
                Action::SendToPeer { allocation, peer, .. } => {
                    let relay = self.relays.get(&allocation).expect("an open relay");
                    assert_eq!(relay.is_ipv4(), peer.0.is_ipv4());
                    assert!(peer.0 != server_address() && !peer.0.ip().is_loopback() && peer.0.port() != 0);
                }
                Action::OpenRelay { allocation, relayed, .. } => {
                    assert!(!self.relays.contains_key(&allocation), "two relays of one number");
                    let is_taken = self.relays.values().any(|other| *other == relayed.0);
                    let result = if is_taken { Err(RelayError::AddressInUse) } else { self.next_relay };
                    if result.is_ok() {
                        self.relays.insert(allocation, relayed.0);
                        self.own_relays.insert(relayed.0, 0);
                    }
                    let result = result.map(|()| Meter::default());
                    self.server.handle_relay_opened(self.now().instant, allocation, result);
                }
                Action::CloseRelay { allocation } => {
                    let relayed = self.relays.remove(&allocation).expect("closed twice, or never open");
                    self.own_relays.remove(relayed);
                    assert!(self.installed.iter().all(|route| route.allocation != allocation));
                    assert!(self.connections.values().all(|open| open.allocation != allocation));
                }
                Action::Connect { allocation, connection, peer } => {
                    assert!(self.relays.contains_key(&allocation) && !peer.0.ip().is_loopback());
                    let begun = Connection { allocation, end: End::Connecting };
                    assert!(self.connections.insert(connection, begun).is_none(), "two of one number");
                    // What fails at once is told at once.
                    if self.next_relay.is_err() {
                        self.connections.remove(&connection);
                        self.server.handle_connected(self.now().instant, connection, false);
                    }
                }
                Action::Splice { connection, flow } => {
                    assert_eq!(Some(flow), asker, "somebody else's stream");
                    let open = self.connections.get_mut(&connection).expect("an open connection");
                    assert!(open.end == End::Waiting, "it is somebody's");
                    open.end = End::Spliced(flow);
                }
                Action::Disconnect { connection } => {
                    assert!(self.connections.remove(&connection).is_some(), "it was over");
                }
                Action::MoveStream { flow, worker, .. } => {
                    assert_eq!((Some(flow), worker), (asker, 1));
                }
                Action::LookUp(question) => panic!("a question without a webhook: {question:?}"),
                Action::HandOver { flow, worker, .. } => {
                    assert_eq!(
                        (Some(flow), worker),
                        (asker, 1),
                        "there are two workers, and this is the first"
                    );
                }
                Action::InstallRoute(route) => {
                    assert!(self.relays.contains_key(&route.allocation) && self.installed.insert(route));
                    self.routes.install(route);
                    assert_eq!(
                        self.routes.to_peer(route.flow, route.channel),
                        Some((route.allocation, route.peer))
                    );
                }
                Action::RemoveRoute(route) => {
                    assert!(self.installed.remove(&route));
                    self.routes.remove(&route);
                }
            }
        }
        responses
    }

    /// Remembers what a client could come back with.
    fn keep_handles(&mut self, response: &[u8]) {
        let Ok(message) = Message::parse(response) else { return };
        let token = message.find(AttributeType::RESERVATION_TOKEN);
        let ticket = message.find(AttributeType::MOBILITY_TICKET);
        self.tokens.extend(token.map(<[u8]>::to_vec));
        self.tickets.extend(ticket.map(<[u8]>::to_vec));
    }

    fn now(&self) -> Now {
        Now { instant: self.start + self.elapsed, unix: UnixTime(1_700_000_000).after(self.elapsed) }
    }
}

/// Classic responses have no cookie; all others are messages and answers.
fn check_response(bytes: &[u8]) {
    match Message::parse(bytes) {
        Ok(message) => assert!(matches!(message.class(), Class::Success | Class::Error)),
        Err(_) => assert_eq!(bytes[..4], [1, 1, 0, 12]),
    }
}

/// A peer's ConnectionAttempt, or the answer to a Connect: both come when a connection does.
fn is_about_a_connection(bytes: &[u8]) -> bool {
    let Ok(message) = Message::parse(bytes) else { return false };
    let has_number = message.find(AttributeType::CONNECTION_ID).is_some();
    let is_failure =
        message.find(AttributeType::ERROR_CODE).is_some_and(|code| code.starts_with(&[0, 0, 4, 47]));
    match (message.class(), message.method()) {
        (Class::Indication, method) => method == Method::CONNECTION_ATTEMPT && has_number,
        (Class::Success, Method::CONNECT) => has_number,
        (Class::Error, Method::CONNECT) => is_failure,
        (Class::Success | Class::Error | Class::Request, _) => false,
    }
}

/// What an Allocate may ask for, sense or not.
fn wish(transport: (AttributeType, Vec<u8>), bits: u8) -> Vec<(AttributeType, Vec<u8>)> {
    let wishes = [
        (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![1, 0, 0, 0]),
        (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![2, 0, 0, 0]),
        (AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0]),
        (AttributeType::EVEN_PORT, vec![0]),
        (AttributeType::EVEN_PORT, vec![0x80]),
        (AttributeType::MOBILITY_TICKET, vec![]),
        (AttributeType::DONT_FRAGMENT, vec![]),
        (AttributeType::LIFETIME, vec![0, 0, 14, 16]),
    ];
    let wanted = wishes.into_iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
    std::iter::once(transport).chain(wanted.map(|(_, wish)| wish)).collect()
}

fn udp() -> (AttributeType, Vec<u8>) {
    (AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])
}

/// One of the handles that were given out, the latest first; what nobody was given if there are none.
fn pick(handles: &[Vec<u8>], choice: u8) -> Vec<u8> {
    let place = usize::from(choice) % handles.len().clamp(1, 4);
    handles.iter().rev().nth(place).cloned().unwrap_or_else(|| vec![choice; 8])
}

fn flow(choice: u8) -> FiveTuple {
    let transport = match choice >> 6 {
        0 => Transport::Udp,
        1 => Transport::Dtls,
        2 => Transport::Tcp,
        _ => Transport::Tls,
    };
    // Port 0 among them, from where nothing may be answered.
    let client = ClientAddr(([192, 0, 2, 1], u16::from(choice % 4)).into());
    FiveTuple { client, server: server_address(), transport }
}

fn peer(choice: u8) -> SocketAddr {
    match choice % 8 {
        0 => ([8, 8, 8, 8], 5000).into(),
        1 => ([8, 8, 8, 8], 5001).into(),
        2 => ([1, 1, 1, 1], 5000).into(),
        3 => ([127, 0, 0, 1], 80).into(),
        4 => "[2606:4700::2]:5000".parse().expect("an address"),
        5 => ([198, 51, 100, 2], 50000 + u16::from(choice / 8 % 4)).into(),
        6 => server_address(),
        _ => "[::ffff:8.8.8.8]:5000".parse().expect("an address"),
    }
}

fn server_address() -> SocketAddr {
    ([198, 51, 100, 1], 3478).into()
}
