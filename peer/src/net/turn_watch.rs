//! Watches what passes between us and TURN servers: counts the payload, and notices why a server refuses.
//!
//! The crate underneath tells neither: it logs a refused allocation and goes on without.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Notify;

use super::ice_servers::{Carrier, TurnEndpoint};
use super::stun::{self, Kind};
use crate::clock;
use crate::report::RelayStats;

/// Shared by the sockets of one connection.
#[derive(Debug)]
pub(crate) struct TurnWatch {
    endpoints: Vec<TurnEndpoint>,
    /// Addresses with the index of their endpoint; few, and written once each.
    addresses: RwLock<Vec<(SocketAddr, usize)>>,
    outcomes: Mutex<Outcomes>,
    /// Somebody may wait for an outcome.
    settled: Notify,
    /// Addresses that servers lent us, with the index of their endpoint.
    relayed: Mutex<Vec<(SocketAddr, usize)>>,
    /// What the other side has said of its addresses.
    signaled: RwLock<HashSet<SocketAddr>>,
    /// Until when checks from relays that nobody has spoken of are held back.
    unannounced_until: OnceLock<Instant>,
    datagrams_sent: AtomicU64,
    bytes_sent: AtomicU64,
    datagrams_received: AtomicU64,
    bytes_received: AtomicU64,
}

#[derive(Debug, Default)]
struct Outcomes {
    /// Of each endpoint.
    servers: Vec<Outcome>,
    /// Requests with credentials: refusing these says something, refusing others only asks for credentials.
    authenticated: HashSet<[u8; 12]>,
}

/// How asking a TURN server went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Not asked.
    NotAsked,
    /// Its name has no address.
    Unresolved { message: String },
    /// There is no stream to it.
    Unreachable { message: String },
    /// Asked, and no answer.
    NoAnswer,
    /// It gave us an address.
    Allocated,
    /// It would not.
    Refused { code: u16, message: String },
}

/// The report of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ServerOutcome {
    pub(crate) url: String,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

impl TurnWatch {
    pub(crate) fn new(endpoints: Vec<TurnEndpoint>) -> Self {
        let outcomes = Outcomes { servers: vec![Outcome::NotAsked; endpoints.len()], ..Outcomes::default() };
        Self {
            endpoints,
            addresses: RwLock::default(),
            outcomes: Mutex::new(outcomes),
            settled: Notify::new(),
            relayed: Mutex::default(),
            signaled: RwLock::default(),
            unannounced_until: OnceLock::new(),
            datagrams_sent: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            datagrams_received: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
        }
    }

    /// A name was resolved, which may be that of a TURN server.
    pub(super) fn resolved(&self, host: &str, port: u16, result: Result<&[SocketAddr], String>) {
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            if endpoint.port != port || !endpoint.name.eq_ignore_ascii_case(host) {
                continue;
            }
            match &result {
                Ok(found) => {
                    let mut addresses = self.addresses.write().unwrap_or_else(PoisonError::into_inner);
                    for address in *found {
                        if !addresses.iter().any(|(known, _)| known == address) {
                            addresses.push((*address, index));
                        }
                    }
                }
                Err(message) => {
                    self.settle(
                        &mut self.outcomes(),
                        index,
                        Outcome::Unresolved { message: message.clone() },
                    );
                }
            }
        }
    }

    /// A datagram leaves.
    pub(super) fn sent(&self, to: SocketAddr, datagram: &[u8]) {
        let Some(server) = self.server_at(to) else { return };
        match stun::look(datagram) {
            Kind::Payload(bytes) => {
                self.datagrams_sent.fetch_add(1, Relaxed);
                self.bytes_sent.fetch_add(bytes as u64, Relaxed);
            }
            Kind::AllocateRequest { transaction, has_credentials } => {
                let mut outcomes = self.outcomes();
                if has_credentials {
                    outcomes.authenticated.insert(transaction);
                }
                if outcomes.servers.get(server) == Some(&Outcome::NotAsked) {
                    self.settle(&mut outcomes, server, Outcome::NoAnswer);
                }
            }
            Kind::AllocateSuccess | Kind::AllocateError { .. } | Kind::Other => {}
        }
    }

    /// A datagram came.
    pub(super) fn received(&self, from: SocketAddr, datagram: &[u8]) {
        let Some(server) = self.server_at(from) else { return };
        match stun::look(datagram) {
            Kind::Payload(bytes) => {
                self.datagrams_received.fetch_add(1, Relaxed);
                self.bytes_received.fetch_add(bytes as u64, Relaxed);
            }
            Kind::AllocateSuccess => self.settle(&mut self.outcomes(), server, Outcome::Allocated),
            Kind::AllocateError { transaction, code, reason } => {
                let mut outcomes = self.outcomes();
                let meant_us = outcomes.authenticated.remove(&transaction);
                if meant_us && code != STALE_NONCE {
                    let message = String::from_utf8_lossy(reason).into_owned();
                    self.settle(&mut outcomes, server, Outcome::Refused { code, message });
                }
            }
            Kind::AllocateRequest { .. } | Kind::Other => {}
        }
    }

    /// No stream to a server could be opened.
    pub(super) fn unreachable(&self, server: usize, message: String) {
        self.settle(&mut self.outcomes(), server, Outcome::Unreachable { message });
    }

    /// Whether a server lends us an address over UDP: as soon as one has, or none will.
    pub(super) async fn lends_over_udp(&self) -> bool {
        loop {
            let settled = self.settled.notified();
            if let Some(lends) = self.lends_over_udp_so_far() {
                return lends;
            }
            settled.await;
        }
    }

    fn lends_over_udp_so_far(&self) -> Option<bool> {
        let outcomes = self.outcomes();
        let servers = self.endpoints.iter().zip(&outcomes.servers);
        let mut may_still = false;
        for (_, outcome) in servers.filter(|(endpoint, _)| endpoint.carrier == Carrier::Udp) {
            match outcome {
                Outcome::Allocated => return Some(true),
                Outcome::NotAsked | Outcome::NoAnswer => may_still = true,
                Outcome::Unresolved { .. } | Outcome::Unreachable { .. } | Outcome::Refused { .. } => {}
            }
        }
        (!may_still).then_some(false)
    }

    /// The other side can be reached at an address.
    pub(crate) fn signaled(&self, address: SocketAddr) {
        self.signaled.write().unwrap_or_else(PoisonError::into_inner).insert(address);
    }

    /// Whether a datagram comes from an address on a TURN server that the other side has not spoken of yet.
    ///
    /// A check that overtakes its candidate makes a peer-reflexive one, which the engine accepts sooner than it would
    /// a relayed one: the connection would stay on the relay although a direct path was about to work. Such checks
    /// are repeated, and by then the candidate has come.
    pub(super) fn is_unannounced_relay(&self, from: SocketAddr) -> bool {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        let is_on_server = addresses.iter().any(|(server, _)| server.ip() == from.ip());
        if !is_on_server || addresses.iter().any(|(server, _)| *server == from) {
            return false;
        }
        let now = clock::now();
        now < *self.unannounced_until.get_or_init(|| now + PATIENCE)
            && !self.signaled.read().unwrap_or_else(PoisonError::into_inner).contains(&from)
    }

    /// A relayed candidate was found at a server that the engine knows by `url`: returns how people know it.
    pub(crate) fn lent(&self, relayed: Option<SocketAddr>, url: &str) -> Option<&str> {
        let (_, rest) = url.split_once(':')?;
        let authority = rest.split_once('?').map_or(rest, |(authority, _)| authority);
        let (host, port) = authority.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let named = |endpoint: &TurnEndpoint| {
            endpoint.name.eq_ignore_ascii_case(host) && endpoint.port.to_string() == port
        };
        let index = self.endpoints.iter().position(named)?;
        if let Some(relayed) = relayed {
            self.relayed.lock().unwrap_or_else(PoisonError::into_inner).push((relayed, index));
        }
        self.endpoints.get(index).map(|endpoint| endpoint.url.as_str())
    }

    /// How the server that lent us an address is reached.
    pub(crate) fn carrier_of(&self, relayed: SocketAddr) -> Option<Carrier> {
        let lent = self.relayed.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, index) = lent.iter().find(|(address, _)| *address == relayed)?;
        self.endpoints.get(*index).map(|endpoint| endpoint.carrier)
    }

    /// How asking each server went so far.
    pub(crate) fn outcomes_so_far(&self) -> Vec<ServerOutcome> {
        let outcomes = self.outcomes();
        let pairs = self.endpoints.iter().zip(&outcomes.servers);
        pairs
            .map(|(endpoint, outcome)| ServerOutcome { url: endpoint.url.clone(), outcome: outcome.clone() })
            .collect()
    }

    /// What was exchanged with all of them.
    pub(crate) fn stats(&self) -> RelayStats {
        RelayStats {
            datagrams_sent: self.datagrams_sent.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            datagrams_received: self.datagrams_received.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
        }
    }

    fn server_at(&self, address: SocketAddr) -> Option<usize> {
        if self.endpoints.is_empty() {
            return None;
        }
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        addresses.iter().find(|(known, _)| *known == address).map(|(_, server)| *server)
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server that gave one of our addresses an allocation is a good one, whatever it says to others.
    fn settle(&self, outcomes: &mut Outcomes, server: usize, outcome: Outcome) {
        if let Some(known) = outcomes.servers.get_mut(server)
            && *known != Outcome::Allocated
        {
            *known = outcome;
            self.settled.notify_waiters();
        }
    }
}

impl ServerOutcome {
    /// In words, if it is worth one.
    pub(crate) fn complaint(&self) -> Option<String> {
        let url = &self.url;
        match &self.outcome {
            Outcome::NotAsked | Outcome::Allocated => None,
            Outcome::Unresolved { message } => {
                Some(format!("TURN server {url}: its name has no address ({message})"))
            }
            Outcome::Unreachable { message } => {
                Some(format!("TURN server {url} cannot be reached ({message})"))
            }
            Outcome::NoAnswer => Some(format!("TURN server {url} does not answer")),
            Outcome::Refused { code, message } => {
                let what = if *code == 401 { " the username or password" } else { "" };
                // Not every server gives a reason to whom it does not know.
                let answer = format!("{code} {message}");
                Some(format!("TURN server {url} refuses{what} ({})", answer.trim_end()))
            }
        }
    }
}

/// The answer to it is to ask again with the new nonce.
const STALE_NONCE: u16 = 438;
/// How long a candidate may come after the first check from it.
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::super::stun::tests::stun;
    use super::*;

    fn server() -> SocketAddr {
        "192.0.2.1:3478".parse().unwrap()
    }

    fn watch() -> TurnWatch {
        let url = "turn:turn.example:3478".to_owned();
        let watch = TurnWatch::new(vec![endpoint(&url, "turn.example")]);
        watch.resolved("turn.example", 3478, Ok(&[server()]));
        watch
    }

    fn endpoint(url: &str, host: &str) -> TurnEndpoint {
        let (url, host) = (url.to_owned(), host.to_owned());
        TurnEndpoint { url, name: host.clone(), host, port: 3478, carrier: Carrier::Udp }
    }

    fn outcome(watch: &TurnWatch) -> Outcome {
        watch.outcomes_so_far()[0].outcome.clone()
    }

    #[test]
    fn payload_is_counted_with_turn_servers_alone() {
        let watch = watch();
        watch.sent(server(), b"\x40\x00\x00\x03abc\0");
        watch.received(server(), b"\x40\x00\x00\x02ab");
        watch.sent("192.0.2.2:3478".parse().unwrap(), b"\x40\x00\x00\x03abc\0");
        let expected =
            RelayStats { datagrams_sent: 1, bytes_sent: 3, datagrams_received: 1, bytes_received: 2 };
        assert_eq!(watch.stats(), expected);
    }

    #[test]
    fn being_asked_for_credentials_is_no_refusal_but_refusing_them_is() {
        let watch = watch();
        let unauthorized = stun(0x0113, &[(0x0009, b"\0\0\x04\x01Unauthorized")]);
        watch.sent(server(), &stun(0x0003, &[]));
        watch.received(server(), &unauthorized);
        assert_eq!(outcome(&watch), Outcome::NoAnswer);
        watch.sent(server(), &stun(0x0003, &[(0x0006, b"user")]));
        watch.received(server(), &unauthorized);
        assert_eq!(outcome(&watch), Outcome::Refused { code: 401, message: "Unauthorized".into() });
        let complaint = watch.outcomes_so_far()[0].complaint().unwrap();
        assert!(complaint.contains("turn:turn.example:3478") && complaint.contains("401"), "{complaint}");
    }

    #[test]
    fn a_refusal_reads_well_with_a_reason_and_without() {
        let complaint = |code, message: &str| {
            let outcome = Outcome::Refused { code, message: message.to_owned() };
            ServerOutcome { url: "turn:x".to_owned(), outcome }.complaint().unwrap()
        };
        assert_eq!(complaint(401, ""), "TURN server turn:x refuses the username or password (401)");
        assert_eq!(complaint(486, "quota reached"), "TURN server turn:x refuses (486 quota reached)");
    }

    #[test]
    fn a_lent_address_belongs_to_the_server_of_that_very_name() {
        let endpoints =
            ["turn.example.org", "example.org"].map(|host| endpoint(&format!("turn:{host}"), host));
        let watch = TurnWatch::new(endpoints.to_vec());
        let relayed = "192.0.2.9:50000".parse().unwrap();
        let known_as = watch.lent(Some(relayed), "turn:example.org:3478?transport=udp");
        assert_eq!(known_as, Some("turn:example.org"));
        assert_eq!(watch.carrier_of(relayed), Some(Carrier::Udp));
        assert_eq!(watch.lent(None, "turn:example.org:99?transport=udp"), None);
    }

    #[tokio::test]
    async fn nobody_waits_for_udp_where_no_server_can_answer_over_it() {
        let tcp = TurnEndpoint { carrier: Carrier::Tcp, ..endpoint("turn:x?transport=tcp", "x") };
        assert!(!TurnWatch::new(vec![tcp.clone()]).lends_over_udp().await);

        let watch = TurnWatch::new(vec![tcp, endpoint("turn:y", "y")]);
        assert_eq!(watch.lends_over_udp_so_far(), None);
        watch.resolved("y", 3478, Err("not found".into()));
        assert!(!watch.lends_over_udp().await);
    }

    #[test]
    fn a_check_from_a_relay_waits_for_its_candidate() {
        let watch = watch();
        let relayed = SocketAddr::new(server().ip(), 50_000);
        assert!(watch.is_unannounced_relay(relayed));
        assert!(!watch.is_unannounced_relay(server()));
        assert!(!watch.is_unannounced_relay("192.0.2.2:50000".parse().unwrap()));
        watch.signaled(relayed);
        assert!(!watch.is_unannounced_relay(relayed));
    }

    #[test]
    fn one_allocation_is_enough() {
        let watch = watch();
        watch.sent(server(), &stun(0x0003, &[(0x0006, b"user")]));
        watch.received(server(), &stun(0x0103, &[]));
        watch.received(server(), &stun(0x0113, &[(0x0009, b"\0\0\x04\x56Quota")]));
        assert_eq!((outcome(&watch), watch.outcomes_so_far()[0].complaint()), (Outcome::Allocated, None));
    }

    #[test]
    fn a_name_without_an_address_is_told() {
        let watch = TurnWatch::new(vec![endpoint("turn:x", "x")]);
        watch.resolved("x", 3478, Err("not found".into()));
        assert_eq!(outcome(&watch), Outcome::Unresolved { message: "not found".into() });
    }
}
