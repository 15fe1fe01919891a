//! A server, a clock and clients for tests: no socket and no waiting.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farcall_proto::turn_credentials::{AuthSecret, UnixTime};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::auth::{self, Authenticator, NonceKey, OauthConfig, OauthKey, RealmConfig, StaticUser};
use crate::clock;
use crate::metrics::WorkerMetrics;
use crate::policy::{Limits, OwnRelays, PeerPolicy, Quota, Reservation, UnauthenticatedBudget, peer};
use crate::stun::{
    AttributeType, ChannelNumber, Class, ErrorCode, IntegrityKey, Message, MessageWriter, Method,
    TransactionId, channel_data,
};

pub(super) const REALM: &str = "example.org";
pub(super) const SERVER: &str = "198.51.100.1:3478";
pub(super) const RELAY_IP: &str = "198.51.100.1";
pub(super) const CLIENT: &str = "192.0.2.7:4000";
/// Public addresses, since the policy under test is the default one.
pub(super) const PEER: &str = "8.8.8.8:5000";
pub(super) const UNIX_START: u64 = 1_700_000_000;

/// What a response says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) flow: FiveTuple,
    pub(super) method: Method,
    pub(super) code: Option<ErrorCode>,
    pub(super) bytes: Vec<u8>,
}

impl Answer {
    pub(super) fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).unwrap()
    }
}

/// A client with what it needs to ask.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) flow: FiveTuple,
    pub(super) username: String,
    pub(super) password: String,
    pub(super) nonce: Vec<u8>,
}

impl Client {
    pub(super) fn key(&self) -> IntegrityKey {
        IntegrityKey::long_term_md5(&self.username, REALM, &self.password)
    }
}

/// The attributes of a request under construction.
pub(super) type Attributes = Vec<(AttributeType, Vec<u8>)>;

pub(super) struct World {
    pub(super) server: Server<ChaCha20Rng>,
    pub(super) metrics: Arc<WorkerMetrics>,
    pub(super) start: Instant,
    pub(super) elapsed: Duration,
    /// How the next relays open; what is not said, opens.
    pub(super) relay_results: Vec<Result<(), RelayError>>,
    pub(super) opened: Vec<RelayedAddr>,
    own_relays: OwnRelays,
    /// What everybody may use.
    pub(super) quota: Quota,
    reservations: Vec<Reservation>,
    next_transaction: u64,
    unread: Vec<Action>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(|_| ())
    }

    /// A world whose configuration differs.
    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_rate(change, None)
    }

    pub(super) fn with_rate(change: impl FnOnce(&mut Config), rate: Option<u32>) -> Self {
        let start = clock::now();
        let mut config = Config {
            addresses: Addresses {
                relay_v4: Some(RELAY_IP.parse().unwrap()),
                relay_v6: None,
                external_v4: None,
                external_v6: None,
                ports: 50000..=50999,
            },
            lifetimes: Lifetimes::default(),
            channels: ChannelRange::Rfc8656,
            classic_stun: ClassicStun::Silent,
            discovery: Discovery::default(),
            alternates: Alternates::default(),
            tcp_relay: TcpRelay::Offered,
        };
        change(&mut config);
        let own =
            [config.addresses.relay_v4, config.addresses.external_v4].into_iter().flatten().map(Into::into);
        let own_relays = OwnRelays::default();
        let policy = PeerPolicy::new(peer::Config {
            allow: Vec::new(),
            deny: vec!["9.9.9.9/32".parse().unwrap()],
            unnamed: peer::Unnamed::ByDefaultList,
            listeners: vec![SERVER.parse().unwrap()],
            own: own.collect(),
            relays: own_relays.clone(),
        });
        let mut rng = ChaCha20Rng::seed_from_u64(42);
        let realm = RealmConfig {
            name: REALM.into(),
            users: ["alice", "bob"]
                .map(|name| StaticUser { name: name.into(), password: "wonder".into() })
                .into(),
            secrets: vec![AuthSecret::new("north").unwrap()],
            oauth: Some(OauthConfig { server_name: REALM.into(), keys: vec![oauth_key()] }),
            ..RealmConfig::default()
        };
        let auth = auth::Config { default_realm: realm, ..auth::Config::default() };
        let metrics = Arc::new(WorkerMetrics::default());
        let parts = Parts {
            authenticator: Authenticator::new(auth, NonceKey::new(&mut rng, start)),
            budget: UnauthenticatedBudget::new(rate.and_then(std::num::NonZeroU32::new), start),
            policy,
            metrics: Arc::clone(&metrics),
            handles: Handles::new(&mut rng, 2),
            rng,
        };
        Self {
            server: Server::new(config, parts),
            metrics,
            start,
            elapsed: Duration::ZERO,
            relay_results: Vec::new(),
            opened: Vec::new(),
            own_relays,
            quota: Quota::new(Limits::default()),
            reservations: Vec::new(),
            next_transaction: 0,
            unread: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Now {
        Now { instant: self.start + self.elapsed, unix: UnixTime(UNIX_START).after(self.elapsed) }
    }

    /// Lets time pass, waking the server exactly when it asks for it.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.elapsed + by;
        while let Some(at) = self.server.poll_timeout().filter(|at| *at <= self.start + end) {
            self.elapsed = self.elapsed.max(at - self.start);
            self.server.handle_timeout(at);
            assert!(
                self.server.poll_timeout().is_none_or(|next| next > at),
                "a deadline that stays is a busy loop"
            );
            self.act();
        }
        self.elapsed = end;
    }

    /// Another process goes on: through a snapshot as it is sent.
    pub(super) fn upgrade(&mut self) {
        let now = self.now().instant;
        let sent = serde_json::to_string(&self.server.snapshot(now, |_| true)).unwrap();
        let mut snapshot: Snapshot = serde_json::from_str(&sent).unwrap();
        let waiting = snapshot.take_waiting();
        self.metrics = Arc::default();
        let before = &self.server.parts;
        let parts = Parts {
            authenticator: before.authenticator.clone(),
            budget: before.budget.clone(),
            policy: before.policy.clone(),
            metrics: Arc::clone(&self.metrics),
            handles: Handles::go_on(&before.handles.secret(), 2),
            rng: ChaCha20Rng::seed_from_u64(self.next_transaction),
        };
        let everything = parts_of(&sent);
        let serials = Serials::from(self.server.serials.upcoming());
        self.server = Server::new(self.server.config.clone(), parts).with_serials(serials);
        for Restored { id, user, limits, .. } in self.server.restore(now, snapshot).unwrap() {
            let reservation = self.quota.adopt(now, &user.account, limits).unwrap();
            self.server.handle_restored(id, reservation.meter().clone());
            self.reservations.push(reservation);
        }
        let again = serde_json::to_string(&self.server.snapshot(now, |_| true)).unwrap();
        assert_eq!(parts_of(&again), everything, "what was restored is what was saved");
        for (flow, message) in waiting {
            self.server.handle_datagram(self.now(), flow, &message);
        }
        self.act();
    }

    /// A UDP client that knows a good nonce.
    pub(super) fn client(&mut self, address: &str) -> Client {
        self.client_as(address, "alice", "wonder")
    }

    pub(super) fn client_as(&mut self, address: &str, username: &str, password: &str) -> Client {
        let client = ClientAddr(address.parse().unwrap());
        let flow = FiveTuple { client, server: SERVER.parse().unwrap(), transport: Transport::Udp };
        let nonce = self
            .server
            .parts
            .authenticator
            .challenge(self.now().instant, flow.ends())
            .nonce
            .as_bytes()
            .to_vec();
        Client { flow, username: username.into(), password: password.into(), nonce }
    }

    /// A client that has an allocation.
    pub(super) fn allocated(&mut self) -> Client {
        self.allocated_at(CLIENT)
    }

    pub(super) fn allocated_at(&mut self, address: &str) -> Client {
        let client = self.client(address);
        let answer = self.ask(&client, Method::ALLOCATE, udp());
        assert_eq!(answer.code, None);
        client
    }

    /// A signed request, as bytes.
    pub(super) fn request(&mut self, client: &Client, method: Method, attributes: &Attributes) -> Vec<u8> {
        let id = self.transaction_id();
        signed(client, method, id, attributes)
    }

    /// Asks and takes the answer.
    pub(super) fn ask(&mut self, client: &Client, method: Method, attributes: Attributes) -> Answer {
        let request = self.request(client, method, &attributes);
        self.deliver(client.flow, &request);
        self.answer()
    }

    pub(super) fn code(&mut self, client: &Client, method: Method, attributes: Attributes) -> Option<u16> {
        self.ask(client, method, attributes).code.map(ErrorCode::number)
    }

    pub(super) fn permit(&mut self, client: &Client, peer: &str) {
        let peer = self.peer(peer);
        assert_eq!(self.code(client, Method::CREATE_PERMISSION, vec![peer]), None);
    }

    pub(super) fn bind(&mut self, client: &Client, channel: u16, peer: &str) {
        assert_eq!(self.bind_code(client, channel, peer), None);
    }

    pub(super) fn bind_code(&mut self, client: &Client, channel: u16, peer: &str) -> Option<u16> {
        let peer = self.peer(peer);
        self.code(client, Method::CHANNEL_BIND, vec![channel_number(channel), peer])
    }

    /// XOR-PEER-ADDRESS for the next request.
    pub(super) fn peer(&self, peer: &str) -> (AttributeType, Vec<u8>) {
        self.peer_address(peer.parse().unwrap())
    }

    pub(super) fn peer_address(&self, peer: SocketAddr) -> (AttributeType, Vec<u8>) {
        let id = transaction_id(self.next_transaction);
        let value = crate::stun::address::EncodedAddress::xor(peer, &id).as_bytes().to_vec();
        (AttributeType::XOR_PEER_ADDRESS, value)
    }

    pub(super) fn send(&mut self, client: &Client, peer: &str, data: &[u8]) {
        let attributes = vec![self.peer(peer), (AttributeType::DATA, data.to_vec())];
        let id = self.transaction_id();
        let bytes = unsigned(Class::Indication, Method::SEND, id, &attributes);
        self.deliver(client.flow, &bytes);
    }

    pub(super) fn send_by_channel(&mut self, client: &Client, channel: u16, data: &[u8]) {
        let header = channel_data::header(ChannelNumber::new(channel).unwrap(), data.len()).unwrap();
        self.deliver(client.flow, &[&header, data].concat());
    }

    pub(super) fn receive(&mut self, allocation: usize, peer: &str, data: &[u8]) {
        self.server.handle_peer_datagram(AllocationId(allocation), PeerAddr(peer.parse().unwrap()), data);
        self.act();
    }

    pub(super) fn deliver(&mut self, flow: FiveTuple, bytes: &[u8]) {
        let now = self.now();
        self.server.handle_datagram(now, flow, bytes);
        self.act();
    }

    /// Opens relays as a driver would, and keeps the other actions for reading.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.server.poll_action() {
            if let Action::OpenRelay { allocation, relayed, ref user, limits, .. } = action {
                let result =
                    if self.relay_results.is_empty() { Ok(()) } else { self.relay_results.remove(0) };
                let result = result.and_then(|()| {
                    let reserved = self.quota.reserve(self.start + self.elapsed, &user.account, limits);
                    let reservation = reserved.ok_or(RelayError::QuotaReached)?;
                    let meter = reservation.meter().clone();
                    self.reservations.push(reservation);
                    Ok(meter)
                });
                self.opened.push(relayed);
                self.own_relays.insert(relayed.0, 0);
                self.server.handle_relay_opened(self.start + self.elapsed, allocation, result);
            }
            self.unread.push(action);
        }
    }

    /// Everything since it was last read, but `OpenRelay`.
    pub(super) fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.unread)
            .into_iter()
            .filter(|action| !matches!(action, Action::OpenRelay { .. }))
            .collect()
    }

    /// The one response since it was last read. Other actions stay.
    pub(super) fn answer(&mut self) -> Answer {
        let (mut responses, rest): (Vec<_>, Vec<_>) =
            self.actions().into_iter().partition(|action| matches!(action, Action::Respond { .. }));
        self.unread = rest;
        assert_eq!(responses.len(), 1, "one answer and no other");
        let Some(Action::Respond { flow, message: bytes }) = responses.pop() else { unreachable!() };
        let message = Message::parse(&bytes).unwrap();
        let code = message.find(AttributeType::ERROR_CODE).map(|value| ErrorCode::parse(value).unwrap());
        assert_eq!(message.class(), if code.is_some() { Class::Error } else { Class::Success });
        Answer { flow, method: message.method(), code, bytes }
    }

    /// Nothing was said or done.
    pub(super) fn is_silent(&mut self) -> bool {
        self.actions().is_empty()
    }

    pub(super) fn transaction_id(&mut self) -> TransactionId {
        self.next_transaction += 1;
        transaction_id(self.next_transaction - 1)
    }

    /// How often this was counted.
    pub(super) fn counted(&self, sample: &str) -> u64 {
        let page =
            crate::metrics::render(&[Arc::clone(&self.metrics)], &crate::metrics::ProcessMetrics::default());
        let line = page.lines().find(|line| line.starts_with(&format!("farcall_relay_{sample} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// What a snapshot says in whatever order, but for what waits: that is handled anew.
fn parts_of(snapshot: &str) -> Vec<String> {
    let snapshot: serde_json::Value = serde_json::from_str(snapshot).unwrap();
    let said = ["allocations", "mobiles", "ended"];
    assert_eq!(snapshot.as_object().unwrap().len(), said.len() + 1);
    let mut parts: Vec<_> =
        said.iter().flat_map(|said| snapshot[said].as_array().unwrap()).map(ToString::to_string).collect();
    parts.sort();
    parts
}

pub(super) fn signed(client: &Client, method: Method, id: TransactionId, attributes: &Attributes) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, id);
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    writer
        .attribute(AttributeType::USERNAME, client.username.as_bytes())
        .attribute(AttributeType::REALM, REALM.as_bytes())
        .attribute(AttributeType::NONCE, &client.nonce)
        .integrity(&client.key())
        .finish()
        .unwrap();
    bytes
}

pub(super) fn unsigned(class: Class, method: Method, id: TransactionId, attributes: &Attributes) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = MessageWriter::new(&mut bytes, class, method, id);
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    writer.finish().unwrap();
    bytes
}

/// What access tokens are sealed with.
pub(super) fn oauth_key() -> OauthKey {
    OauthKey::new("kid".into(), &[1; 32]).unwrap()
}

/// The attributes of the simplest Allocate.
pub(super) fn udp() -> Attributes {
    vec![(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])]
}

/// The same with something more.
pub(super) fn udp_and(kind: AttributeType, value: &[u8]) -> Attributes {
    [udp(), vec![(kind, value.to_vec())]].concat()
}

pub(super) fn lifetime(seconds: u32) -> (AttributeType, Vec<u8>) {
    (AttributeType::LIFETIME, seconds.to_be_bytes().to_vec())
}

pub(super) fn channel_number(channel: u16) -> (AttributeType, Vec<u8>) {
    let [high, low] = channel.to_be_bytes();
    (AttributeType::CHANNEL_NUMBER, vec![high, low, 0, 0])
}

fn transaction_id(number: u64) -> TransactionId {
    let mut id = [0; 12];
    id[4..].copy_from_slice(&number.to_be_bytes());
    TransactionId(id)
}
