//! What one address, one session, one identity and one room may ask for: counts of what is open, and rates.
//!
//! An address is an IPv4 address or an IPv6 /56, which is what one customer of a provider has. This machine itself is
//! not limited: whoever is there, a proxy without a name among them, stands for others. Every table is bounded: what
//! is counted is bounded by the server's own limits, and a rate forgets whoever has been quiet.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use ipnet::IpNet;

use crate::live::Live;
use crate::room::Timestamp;

/// How much of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Connections of one address at once.
    pub connections_per_address: u32,
    /// Streams of one address at once, each a session.
    pub streams_per_address: u32,
    /// Streams of one identity at once, unless its token says otherwise.
    pub streams_per_identity: u32,
    /// Rooms that one address is in at once.
    pub rooms_per_address: u32,
    /// Rooms that one identity is in at once, unless its token says otherwise.
    pub rooms_per_identity: u32,
    /// Joins of one address, a minute.
    pub joins_per_address: u32,
    /// Joins of one identity, a minute.
    pub joins_per_identity: u32,
    /// Joins of one room, a minute.
    pub joins_per_room: u32,
    /// Calls and their frames of one address, a second.
    pub frames_per_address: u32,
    /// Calls and their frames of one session, a second.
    pub frames_per_session: u32,
    /// Bytes in the frames of one address, a second.
    pub bytes_per_address: u32,
    /// Bytes in the frames of one session, a second.
    pub bytes_per_session: u32,
}

/// Which of them was used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "they say it themselves")]
pub enum Quota {
    ConnectionsPerAddress,
    StreamsPerAddress,
    StreamsPerIdentity,
    RoomsPerAddress,
    RoomsPerIdentity,
    JoinsPerAddress,
    JoinsPerIdentity,
    JoinsPerRoom,
    FramesPerAddress,
    FramesPerSession,
    BytesPerAddress,
    BytesPerSession,
}

impl Quota {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 12] = [
        Self::ConnectionsPerAddress,
        Self::StreamsPerAddress,
        Self::StreamsPerIdentity,
        Self::RoomsPerAddress,
        Self::RoomsPerIdentity,
        Self::JoinsPerAddress,
        Self::JoinsPerIdentity,
        Self::JoinsPerRoom,
        Self::FramesPerAddress,
        Self::FramesPerSession,
        Self::BytesPerAddress,
        Self::BytesPerSession,
    ];

    /// As in metrics and in `QuotaFailure.subject`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::StreamsPerAddress => "streams_per_address",
            Self::StreamsPerIdentity => "streams_per_identity",
            Self::RoomsPerAddress => "rooms_per_address",
            Self::RoomsPerIdentity => "rooms_per_identity",
            Self::JoinsPerAddress => "joins_per_address",
            Self::JoinsPerIdentity => "joins_per_identity",
            Self::JoinsPerRoom => "joins_per_room",
            Self::FramesPerAddress => "frames_per_address",
            Self::FramesPerSession => "frames_per_session",
            Self::BytesPerAddress => "bytes_per_address",
            Self::BytesPerSession => "bytes_per_session",
        }
    }
}

/// More than one may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {} allows; try again in {} ms", quota.as_str(), retry_after.as_millis())]
pub struct Excess {
    /// Of what.
    pub quota: Quota,
    /// When there may be some again.
    pub retry_after: Duration,
}

/// Whom a request is from, as far as is known. A request without one is from this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddr(pub IpAddr);

impl ClientAddr {
    /// What is counted as one; nothing for this machine itself.
    fn key(self) -> Option<IpAddr> {
        match self.0.to_canonical() {
            ip if ip.is_loopback() => None,
            IpAddr::V4(ip) => Some(ip.into()),
            IpAddr::V6(ip) => Some(Ipv6Addr::from_bits(ip.to_bits() & !(u128::MAX >> 56)).into()),
        }
    }
}

/// Who may say whom a request is from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// All in these.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().collect())
    }

    /// Whether it is one.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// Whom a request is from: the last address that no trusted proxy has, if it came from one.
    #[must_use]
    pub fn client(&self, from: IpAddr, headers: &HeaderMap) -> ClientAddr {
        let mut client = from;
        if self.contains(from) {
            let said = headers.get_all(FORWARDED_FOR).iter().rev();
            let addresses = said.flat_map(|value| value.to_str().unwrap_or("").rsplit(','));
            for address in addresses.take(MAX_PROXIES) {
                let Some(ip) = parse(address.trim()) else { break };
                client = ip;
                if !self.contains(ip) {
                    break;
                }
            }
        }
        ClientAddr(client)
    }
}

/// An address, perhaps with a port.
fn parse(text: &str) -> Option<IpAddr> {
    let ip = text.parse().or_else(|_| text.parse().map(|address: std::net::SocketAddr| address.ip()));
    ip.ok().map(|ip| ip.to_canonical())
}

/// What everybody has taken so far.
#[derive(Debug)]
pub struct Limits {
    quotas: Live<Quotas>,
    connections: Counts,
    streams: Counts,
    rates: Rates,
}

impl Limits {
    /// Nothing so far.
    #[must_use]
    pub fn new(quotas: Quotas) -> Self {
        Self {
            quotas: Live::new(quotas),
            connections: Counts::default(),
            streams: Counts::default(),
            rates: Rates::new(MAX_TRACKED),
        }
    }

    /// Others from now on. What somebody has beyond them is not taken away.
    pub fn change(&self, quotas: Quotas) {
        self.quotas.set(quotas);
    }

    /// One more connection, until the permit is dropped.
    pub fn connect(&self, client: ClientAddr) -> Result<Permit, Excess> {
        let Some(key) = client.key() else { return Ok(Permit::default()) };
        let limit = self.quotas.get().connections_per_address;
        self.connections.enter(self.rates.hash(key), limit, Quota::ConnectionsPerAddress)
    }

    /// A join and the stream that it opens, until the permit is dropped. `identity_limit` is what the identity's own
    /// token says.
    pub fn join(
        &self,
        now: Timestamp,
        client: ClientAddr,
        identity: &str,
        identity_limit: Option<u32>,
        room: &str,
    ) -> Result<Permit, Excess> {
        let quotas = &self.quotas.get();
        let mut permit = Permit::default();
        let address = client.key().map(|key| self.rates.hash(key));
        let identity = (!identity.is_empty()).then(|| self.rates.hash(identity));
        let in_room = self.rates.hash(room);
        if let Some(address) = address {
            let rate = Rate::per_minute(quotas.joins_per_address);
            self.rates.take(now, Quota::JoinsPerAddress, address, 1, rate)?;
            permit.add(self.streams.enter(address, quotas.streams_per_address, Quota::StreamsPerAddress)?);
            let limit = quotas.rooms_per_address;
            permit.add(self.streams.enter_room(address, in_room, limit, Quota::RoomsPerAddress)?);
        }
        if let Some(identity) = identity {
            let rate = Rate::per_minute(quotas.joins_per_identity);
            self.rates.take(now, Quota::JoinsPerIdentity, identity, 1, rate)?;
            let limit = identity_limit.unwrap_or(quotas.streams_per_identity);
            permit.add(self.streams.enter(identity, limit, Quota::StreamsPerIdentity)?);
            let limit = identity_limit.unwrap_or(quotas.rooms_per_identity);
            permit.add(self.streams.enter_room(identity, in_room, limit, Quota::RoomsPerIdentity)?);
        }
        if address.is_some() {
            let rate = Rate::per_minute(quotas.joins_per_room);
            self.rates.take(now, Quota::JoinsPerRoom, in_room, 1, rate)?;
        }
        Ok(permit)
    }

    /// A call of a session with so many frames and bytes.
    pub fn send(
        &self,
        now: Timestamp,
        client: ClientAddr,
        session: impl Hash,
        frames: usize,
        bytes: usize,
    ) -> Result<(), Excess> {
        let Some(address) = client.key() else { return Ok(()) };
        let (address, session) = (self.rates.hash(address), self.rates.hash(session));
        let quotas = &self.quotas.get();
        for (quota, key, amount, per_second) in [
            (Quota::FramesPerAddress, address, frames.max(1), quotas.frames_per_address),
            (Quota::BytesPerAddress, address, bytes, quotas.bytes_per_address),
            (Quota::FramesPerSession, session, frames.max(1), quotas.frames_per_session),
            (Quota::BytesPerSession, session, bytes, quotas.bytes_per_session),
        ] {
            self.rates.take(now, quota, key, amount, Rate::per_second(per_second))?;
        }
        Ok(())
    }
}

/// How many of something each has. Bounded by how many there may be in all.
#[derive(Debug, Clone, Default)]
struct Counts(Arc<Mutex<HashMap<Counted, u32>>>);

/// What is counted: streams and rooms of somebody, and the streams in one of somebody's rooms.
type Counted = (Quota, u64, Option<u64>);

impl Counts {
    fn enter(&self, key: u64, limit: u32, quota: Quota) -> Result<Permit, Excess> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        one_more(&mut counts, (quota, key, None), limit)?;
        Ok(Permit(vec![(self.clone(), (quota, key, None))]))
    }

    /// A room counts once, however many of its streams are the same one's.
    fn enter_room(&self, key: u64, room: u64, limit: u32, quota: Quota) -> Result<Permit, Excess> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let in_room = (quota, key, Some(room));
        if !counts.contains_key(&in_room) {
            one_more(&mut counts, (quota, key, None), limit)?;
        }
        one_more(&mut counts, in_room, u32::MAX)?;
        Ok(Permit(vec![(self.clone(), in_room)]))
    }

    fn leave(&self, counted: Counted) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (quota, key, room) = counted;
        if one_less(&mut counts, counted) == 0 && room.is_some() {
            one_less(&mut counts, (quota, key, None));
        }
    }
}

fn one_more(counts: &mut HashMap<Counted, u32>, counted: Counted, limit: u32) -> Result<(), Excess> {
    let count = counts.get(&counted).copied().unwrap_or_default();
    if count >= limit {
        return Err(Excess { quota: counted.0, retry_after: COME_BACK });
    }
    counts.insert(counted, count + 1);
    Ok(())
}

/// How many are left.
fn one_less(counts: &mut HashMap<Counted, u32>, counted: Counted) -> u32 {
    let left = counts.get(&counted).copied().unwrap_or_default().saturating_sub(1);
    if left == 0 {
        counts.remove(&counted);
    } else {
        counts.insert(counted, left);
    }
    left
}

/// What is given back when it is dropped.
#[derive(Debug, Default)]
pub struct Permit(Vec<(Counts, Counted)>);

impl Permit {
    fn add(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        for (counts, counted) in self.0.drain(..) {
            counts.leave(counted);
        }
    }
}

/// So much in so long, and ten times that at once after a quiet while.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// What one costs, in nanoseconds.
    cost: u64,
    /// How far ahead of time one may be, in nanoseconds.
    burst: u64,
}

impl Rate {
    fn per_second(amount: u32) -> Self {
        Self { cost: SECOND / u64::from(amount.max(1)), burst: 10 * SECOND }
    }

    fn per_minute(amount: u32) -> Self {
        Self { cost: 60 * SECOND / u64::from(amount.max(1)), burst: 60 * SECOND }
    }
}

/// Rates by what was taken: for each key the time at which all of it will have been earned back.
#[derive(Debug)]
struct Rates {
    hasher: RandomState,
    table: Mutex<Table>,
    most: usize,
}

#[derive(Debug, Default)]
struct Table {
    earned_back_at: HashMap<(Quota, u64), u64>,
    /// Looking for those who owe nothing takes a while, so it is not done at every call.
    look_again_at: u64,
}

impl Rates {
    fn new(most: usize) -> Self {
        Self { hasher: RandomState::new(), table: Mutex::default(), most }
    }

    fn hash(&self, key: impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    fn take(&self, now: Timestamp, quota: Quota, key: u64, amount: usize, rate: Rate) -> Result<(), Excess> {
        let now = now.0.saturating_mul(1_000_000);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { earned_back_at: table, look_again_at } = &mut *table;
        let mut key = (quota, key);
        if table.len() >= self.most && !table.contains_key(&key) {
            if *look_again_at <= now {
                table.retain(|_, earned_back_at| *earned_back_at > now);
                *look_again_at = now.saturating_add(SECOND);
            }
            if table.len() >= self.most {
                // So many are busy at once that newcomers share places.
                key.1 %= SHARED;
            }
        }
        let owed_until = table.get(&key).copied().unwrap_or_default().max(now);
        // Whoever owes nothing may have anything once, however large.
        let ahead = owed_until - now;
        let cost = rate.cost.saturating_mul(u64::try_from(amount).unwrap_or(u64::MAX));
        if ahead > 0 && ahead.saturating_add(cost) > rate.burst {
            let wait = ahead.saturating_add(cost) - rate.burst;
            return Err(Excess {
                quota,
                retry_after: Duration::from_nanos(wait.min(ahead).max(MILLISECOND)),
            });
        }
        if cost > 0 {
            table.insert(key, owed_until.saturating_add(cost));
        }
        Ok(())
    }
}

const FORWARDED_FOR: &str = "x-forwarded-for";
/// Proxies in a row that are believed.
const MAX_PROXIES: usize = 16;
/// What is open is given back by whoever has it, at a time that is not known.
const COME_BACK: Duration = Duration::from_secs(5);
/// Rates kept at once: some tens of megabytes.
const MAX_TRACKED: usize = 500_000;
const SHARED: u64 = 4096;
const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTAS: Quotas = Quotas {
        connections_per_address: 2,
        streams_per_address: 2,
        streams_per_identity: 1,
        rooms_per_address: 4,
        rooms_per_identity: 9,
        joins_per_address: 6,
        joins_per_identity: 5,
        joins_per_room: 4,
        frames_per_address: 3,
        frames_per_session: 2,
        bytes_per_address: 1000,
        bytes_per_session: 900,
    };

    fn client(ip: &str) -> ClientAddr {
        ClientAddr(ip.parse().unwrap())
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000 + seconds * 1000)
    }

    #[test]
    fn one_address_has_so_many_connections_and_gives_them_back() {
        let limits = Limits::new(QUOTAS);
        let held =
            [limits.connect(client("192.0.2.1")).unwrap(), limits.connect(client("192.0.2.1")).unwrap()];
        let excess = limits.connect(client("192.0.2.1")).unwrap_err();
        assert_eq!(excess.quota, Quota::ConnectionsPerAddress);
        limits.connect(client("192.0.2.2")).unwrap();
        drop(held);
        limits.connect(client("192.0.2.1")).unwrap();
        assert!(limits.connections.0.lock().unwrap().is_empty(), "what was given back is forgotten");
    }

    #[test]
    fn an_ipv6_network_counts_as_one_and_this_machine_not_at_all() {
        let limits = Limits::new(QUOTAS);
        let _held =
            ["2001:db8:0:ff01::1", "2001:db8:0:ff99::2"].map(|ip| limits.connect(client(ip)).unwrap());
        assert!(limits.connect(client("2001:db8:0:ff00::3")).is_err());
        assert!(limits.connect(client("2001:db8:0:fe00::3")).is_ok());
        let many: Vec<_> = (0..100).map(|_| limits.connect(client("::ffff:127.0.0.1")).unwrap()).collect();
        assert_eq!(many.len(), 100);
    }

    #[test]
    fn a_rate_allows_a_burst_and_then_what_was_earned_back() {
        let limits = Limits::new(QUOTAS);
        let join =
            |seconds, ip: &str, room: &str| limits.join(at(seconds), client(ip), "", None, room).map(drop);
        for room in ["a", "b", "c", "d", "e", "f"] {
            join(0, "192.0.2.1", room).unwrap();
        }
        let excess = join(0, "192.0.2.1", "g").unwrap_err();
        assert_eq!((excess.quota, excess.retry_after), (Quota::JoinsPerAddress, Duration::from_secs(10)));
        join(10, "192.0.2.1", "g").unwrap();
        assert!(join(10, "192.0.2.1", "g").is_err());
        // A room has its own, whoever asks.
        for last in 1..=4 {
            join(0, &format!("198.51.100.{last}"), "busy").unwrap();
        }
        assert_eq!(join(0, "198.51.100.9", "busy").unwrap_err().quota, Quota::JoinsPerRoom);
    }

    #[test]
    fn one_address_is_in_so_many_rooms_and_a_room_counts_once() {
        let limits = Limits::new(Quotas { streams_per_address: 99, rooms_per_address: 2, ..QUOTAS });
        let join = |room| limits.join(at(0), client("192.0.2.1"), "", None, room);
        let (red, red_again, blue) = (join("red").unwrap(), join("red").unwrap(), join("blue").unwrap());
        assert_eq!(join("green").unwrap_err().quota, Quota::RoomsPerAddress);
        drop(red);
        assert!(join("green").is_err(), "it is still in the red one");
        drop(red_again);
        let green = join("green").unwrap();
        limits.change(Quotas { rooms_per_address: 1, ..QUOTAS });
        assert!(limits.join(at(60), client("192.0.2.1"), "", None, "white").is_err());
        drop((blue, green));
        limits.join(at(60), client("192.0.2.1"), "", None, "white").unwrap();
        assert!(limits.streams.0.lock().unwrap().is_empty(), "what was given back is forgotten");
    }

    #[test]
    fn an_identity_is_counted_wherever_it_is_and_its_token_may_say_how_much() {
        let limits = Limits::new(QUOTAS);
        let join = |ip, limit| limits.join(at(0), client(ip), "ada", limit, "room");
        let _held = join("192.0.2.1", None).unwrap();
        assert_eq!(join("127.0.0.1", None).unwrap_err().quota, Quota::StreamsPerIdentity);
        let _more = join("127.0.0.1", Some(2)).unwrap();
        assert_eq!(join("192.0.2.3", Some(2)).unwrap_err().quota, Quota::StreamsPerIdentity);
    }

    #[test]
    fn frames_and_bytes_have_their_rates() {
        let limits = Limits::new(QUOTAS);
        let send = |seconds, session, frames, bytes| {
            limits.send(at(seconds), client("192.0.2.1"), session, frames, bytes).map_err(|e| e.quota)
        };
        // A call larger than all bursts is taken from whoever owes nothing, and owed for.
        send(0, "ada", 1, 90_000).unwrap();
        assert_eq!(send(1, "ada", 1, 1), Err(Quota::BytesPerAddress));
        assert_eq!(send(95, "ada", 1, 4500), Ok(()));
        assert_eq!(send(95, "ada", 1, 4500), Err(Quota::BytesPerSession));
        assert_eq!(send(200, "ada", 20, 0), Ok(()));
        assert_eq!(send(200, "ada", 0, 0), Err(Quota::FramesPerSession));
        assert_eq!(send(200, "bob", 9, 0), Ok(()));
        assert_eq!(send(200, "bob", 9, 0), Err(Quota::FramesPerAddress));
    }

    #[test]
    fn the_table_is_bounded_and_newcomers_share_when_it_is_full() {
        let rates = Rates::new(100);
        for key in 0..10_000 {
            rates.take(at(0), Quota::JoinsPerRoom, rates.hash(key), 1, Rate::per_minute(1000)).unwrap();
        }
        let size = || {
            let table = rates.table.lock().unwrap();
            table.earned_back_at.len()
        };
        assert!(size() <= 100 + 4096, "{}", size());
        rates.take(at(60), Quota::JoinsPerRoom, 1 << 40, 1, Rate::per_minute(6)).unwrap();
        assert!(size() <= 4097, "those who owe nothing are forgotten");
    }

    #[test]
    fn the_client_is_whom_the_last_trusted_proxy_names() {
        let proxies = TrustedProxies::new(["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let client = |from: &str, said: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in said {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            proxies.client(from.parse().unwrap(), &headers).0.to_string()
        };
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, 198.51.100.7:443, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(client("::1", &["6.6.6.6", "[2001:db8::7]:443"]), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &["6.6.6.6, nonsense"]), "10.0.0.1");
    }
}
