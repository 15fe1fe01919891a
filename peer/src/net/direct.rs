//! Looks for a direct path while a relayed one is in use.
//!
//! Once ICE of rtc 0.21.1 has selected a pair, it checks no other: whoever got a relayed one because the relay answered
//! first stays there. A check (RFC 8445, section 7.2.2) is answered at any time, though, and is the same for whichever
//! address it goes to. So the last one that the engine sent goes again, to the other side's own addresses, now and then.
//! Both ends do that, which is what opens the routers between them. An answer tells that an ICE restart is worth it.
//!
//! A restart without an answer is not: it takes the path away until there is another.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::sockets::Sockets;
use super::stun::{self, Check};

/// Of one connection.
#[derive(Debug)]
pub(crate) struct DirectPaths {
    sockets: Arc<Sockets>,
    /// Where the other side may be reached without a relay.
    targets: Mutex<Vec<SocketAddr>>,
}

impl DirectPaths {
    pub(crate) fn new(sockets: Arc<Sockets>) -> Self {
        Self { sockets, targets: Mutex::default() }
    }

    /// The other side has another address, which is no relay's.
    pub(crate) fn learn(&self, target: SocketAddr) {
        let mut targets = lock(&self.targets);
        if targets.len() < MOST_TARGETS && !targets.contains(&target) {
            targets.push(target);
        }
    }

    /// ICE begins anew, and so will the other side's addresses.
    pub(crate) fn forget(&self) {
        lock(&self.targets).clear();
    }

    /// Looks for one from now on, and calls back as often as it is found.
    pub(crate) fn search(&self, now: Instant, found: &Found) {
        let targets = lock(&self.targets).clone();
        self.sockets.each(|socket| socket.search(now, &targets, found));
    }

    /// Leaves it at that.
    pub(crate) fn rest(&self) {
        self.sockets.each(|socket| socket.checker.rest());
    }
}

/// Whom to tell.
#[derive(Clone)]
pub(crate) struct Found(Arc<dyn Fn() + Send + Sync>);

impl Found {
    pub(crate) fn new(tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl std::fmt::Debug for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Found")
    }
}

/// Of one socket. Sans-IO: told of every datagram, asked for what to send.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// As the engine sent it last.
    check: Vec<u8>,
    search: Option<Search>,
}

#[derive(Debug)]
struct Search {
    targets: Vec<SocketAddr>,
    found: Found,
    due: Instant,
    /// How often everybody was asked.
    round: u32,
}

impl Checker {
    /// A datagram leaves.
    pub(super) fn sent(&mut self, datagram: &[u8]) {
        if stun::is_plain_check(datagram) {
            self.check.clear();
            self.check.extend_from_slice(datagram);
        }
    }

    /// A datagram came.
    pub(super) fn received(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let Some(search) = self.search.as_mut().filter(|search| search.targets.contains(&from)) else {
            return;
        };
        let Some(Check::Success(answered)) = stun::check(datagram) else { return };
        // Others go to the same addresses with each round, and whoever has answered once will again.
        if stun::check(&self.check) == Some(Check::Request(answered)) && search.round > 0 {
            search.due = now + AGAIN;
            (search.found.0)();
        }
    }

    pub(super) fn search(&mut self, now: Instant, local: SocketAddr, targets: &[SocketAddr], found: &Found) {
        // Whoever is on another machine is not reached from a loopback address, nor the other way round.
        let is_reachable = |target: &&SocketAddr| {
            target.is_ipv4() == local.is_ipv4() && target.ip().is_loopback() == local.ip().is_loopback()
        };
        let targets: Vec<_> = targets.iter().filter(is_reachable).copied().collect();
        self.search = (!targets.is_empty()).then(|| Search {
            targets,
            found: found.clone(),
            due: now + FIRST,
            round: 0,
        });
    }

    pub(super) fn rest(&mut self) {
        self.search = None;
    }

    /// When [`Checker::poll`] is to be asked next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.search.as_ref().map(|search| search.due)
    }

    /// What to send now, and where to.
    pub(super) fn poll(&mut self, now: Instant) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let due = self.search.as_mut().filter(|search| search.due <= now && !self.check.is_empty());
        let targets = due.map(|search| {
            search.round += 1;
            search.due = now + if search.round.is_multiple_of(BURST) { PAUSE } else { SPACING };
            &*search.targets
        });
        targets.unwrap_or_default().iter().map(|target| (*target, &*self.check))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the other side says of itself must not make anybody else suffer.
const MOST_TARGETS: usize = 8;
/// What was under way when a relayed pair was selected may still bring something.
const FIRST: Duration = Duration::from_secs(1);
/// A round may be lost, or come before the other side has opened its router.
const BURST: u32 = 3;
const SPACING: Duration = Duration::from_millis(250);
/// Less than routers remember, RFC 4787 REQ-5 or not, so that the ends need not agree on when to send.
const PAUSE: Duration = Duration::from_secs(15);
/// To tell it again where nobody acted on it.
const AGAIN: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::clock;

    const LOCAL: &str = "192.0.2.1:5000";

    /// With USERNAME, and USE-CANDIDATE if it nominates.
    fn check(transaction: u8, nominates: bool) -> Vec<u8> {
        let attributes: &[u8] = if nominates {
            &[0, 6, 0, 3, b'a', b':', b'b', 0, 0, 0x25, 0, 0]
        } else {
            &[0, 6, 0, 3, b'a', b':', b'b', 0]
        };
        message(1, transaction, attributes)
    }

    fn message(kind: u16, transaction: u8, attributes: &[u8]) -> Vec<u8> {
        let mut message = kind.to_be_bytes().to_vec();
        message.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
        message.extend([0x21, 0x12, 0xa4, 0x42]);
        message.extend([transaction; 12]);
        message.extend(attributes);
        message
    }

    fn success(transaction: u8) -> Vec<u8> {
        message(0x101, transaction, &[])
    }

    fn counter() -> (Arc<AtomicUsize>, Found) {
        let count = Arc::<AtomicUsize>::default();
        let told = Arc::clone(&count);
        (count, Found::new(move || _ = told.fetch_add(1, Relaxed)))
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn sent(checker: &mut Checker, now: Instant) -> Vec<(String, Vec<u8>)> {
        checker.poll(now).map(|(target, check)| (target.to_string(), check.to_vec())).collect()
    }

    #[test]
    fn the_last_check_goes_to_everybody_in_bursts_until_it_rests() {
        let (now, (_, found)) = (clock::now(), counter());
        let mut checker = Checker::default();
        checker.sent(&check(1, false));
        for other in [check(2, true), message(1, 3, &[]), success(4), b"media".to_vec()] {
            checker.sent(&other);
        }
        assert_eq!(checker.poll_timeout(), None);
        let targets = addresses(&["198.51.100.1:1", "198.51.100.2:2", "127.0.0.1:3", "[2001:db8::1]:4"]);
        checker.search(now, LOCAL.parse().unwrap(), &targets, &found);
        assert_eq!(checker.poll_timeout(), Some(now + FIRST));
        assert_eq!(sent(&mut checker, now), []);
        let reachable =
            ["198.51.100.1:1", "198.51.100.2:2"].map(|target| (target.to_owned(), check(1, false)));
        let mut gaps = Vec::new();
        let mut at = now + FIRST;
        for _ in 0..7 {
            assert_eq!(sent(&mut checker, at), reachable);
            let next = checker.poll_timeout().unwrap();
            gaps.push(next - at);
            at = next;
        }
        assert_eq!(gaps, [SPACING, SPACING, PAUSE, SPACING, SPACING, PAUSE, SPACING]);
        checker.rest();
        assert_eq!((checker.poll_timeout(), sent(&mut checker, at)), (None, vec![]));
    }

    #[test]
    fn an_answer_counts_from_where_the_check_went_and_for_this_check() {
        let (now, (count, found)) = (clock::now(), counter());
        let [target, stranger] = addresses(&["198.51.100.1:1", "198.51.100.1:2"])[..] else { panic!() };
        let mut checker = Checker::default();
        checker.sent(&check(1, false));
        checker.search(now, LOCAL.parse().unwrap(), &[target], &found);
        checker.received(now, target, &success(1));
        assert_eq!(count.load(Relaxed), 0, "nothing has been asked yet");
        assert_eq!(sent(&mut checker, now + FIRST).len(), 1);
        checker.received(now, stranger, &success(1));
        checker.received(now, target, &success(2));
        checker.received(now, target, &check(1, false));
        checker.received(now, target, b"\x01\x01");
        assert_eq!(count.load(Relaxed), 0);
        checker.received(now + FIRST, target, &success(1));
        assert_eq!(count.load(Relaxed), 1);
        // Where nobody acts on it, it is asked and told again.
        assert_eq!(checker.poll_timeout(), Some(now + FIRST + AGAIN));
        assert_eq!(sent(&mut checker, now + FIRST + AGAIN).len(), 1);
        checker.received(now + FIRST + AGAIN, target, &success(1));
        assert_eq!(count.load(Relaxed), 2);
    }

    #[test]
    fn nobody_is_made_to_suffer_by_what_the_other_side_says_of_itself() {
        let paths = DirectPaths::new(Arc::default());
        for port in 1..100 {
            for _ in 0..2 {
                paths.learn(SocketAddr::new([203, 0, 113, 9].into(), port));
            }
        }
        assert_eq!(lock(&paths.targets).len(), MOST_TARGETS);
        paths.forget();
        assert_eq!(lock(&paths.targets).len(), 0);
    }
}
