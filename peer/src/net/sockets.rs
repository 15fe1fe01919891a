//! The sockets of one connection, which come and go with the generations of ICE.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::socket::Awake;
use super::stun::Way;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    all: Mutex<Vec<Weak<Mutex<Awake>>>>,
    unheard: Arc<Unheard>,
}

/// What was said last on a path that broke, for whichever socket knows the next one.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    /// Whether there is a next one.
    is_due: AtomicBool,
    words: Mutex<Words>,
}

#[derive(Debug, Default)]
struct Words {
    datagrams: Vec<Vec<u8>>,
    /// When a path that is not in use by then is none.
    until: Option<Instant>,
    /// Which ways they have gone. At first ICE answers on several, of which one is it.
    gone: Vec<(SocketAddr, Way)>,
}

impl Sockets {
    /// The connection is up again, perhaps by another path: what got no answer on the old one is said on this one, rather
    /// than wait for a timer that has been doubled while there was none.
    pub(crate) fn say_again(&self, now: Instant) {
        self.each(|socket| self.unheard.keep(socket.repeater.take()));
        let mut words = lock(&self.unheard.words);
        words.until = Some(now + SETTLING);
        words.gone.clear();
        self.unheard.is_due.store(!words.datagrams.is_empty(), Relaxed);
    }

    pub(super) fn join(&self, socket: &Arc<Mutex<Awake>>) {
        lock(&self.all).push(Arc::downgrade(socket));
    }

    pub(super) fn unheard(&self) -> Arc<Unheard> {
        Arc::clone(&self.unheard)
    }

    pub(super) fn each(&self, mut act: impl FnMut(&mut Awake)) {
        lock(&self.all).retain(|socket| {
            let Some(socket) = socket.upgrade() else { return false };
            act(&mut lock(&socket));
            true
        });
    }
}

impl Unheard {
    /// The oldest go first.
    pub(super) fn keep(&self, datagrams: Vec<Vec<u8>>) {
        let mut words = lock(&self.words);
        words.datagrams.extend(datagrams);
        let too_many = words.datagrams.len().saturating_sub(MOST_KEPT);
        words.datagrams.drain(..too_many);
    }

    /// Whether somebody should say it.
    pub(super) fn is_due(&self) -> bool {
        self.is_due.load(Relaxed)
    }

    /// What is to be said this way, if it is one that it has not gone yet.
    pub(super) fn take(&self, now: Instant, destination: SocketAddr, way: Way) -> Vec<Vec<u8>> {
        let mut words = lock(&self.words);
        let Words { datagrams, until, gone } = &mut *words;
        if until.is_none_or(|until| until <= now) || gone.len() >= MOST_WAYS {
            self.is_due.store(false, Relaxed);
            datagrams.clear();
        }
        if gone.contains(&(destination, way)) {
            return Vec::new();
        }
        gone.push((destination, way));
        datagrams.clone()
    }
}

/// Of one socket and of the one before.
const MOST_KEPT: usize = 16;
const MOST_WAYS: usize = 6;
/// By then the pair in use has been asked for an answer once, whatever else is said.
const SETTLING: Duration = Duration::from_secs(2);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn way(port: u16) -> (SocketAddr, Way) {
        (SocketAddr::new([192, 0, 2, 1].into(), port), Way::Plain)
    }

    fn take(sockets: &Sockets, now: Instant, (destination, way): (SocketAddr, Way)) -> Vec<Vec<u8>> {
        if sockets.unheard.is_due() { sockets.unheard.take(now, destination, way) } else { Vec::new() }
    }

    #[test]
    fn what_was_unheard_goes_each_way_once_while_the_path_settles() {
        let (sockets, now) = (Sockets::default(), clock::now());
        sockets.unheard.keep(vec![b"one".to_vec()]);
        sockets.unheard.keep(vec![b"two".to_vec()]);
        assert!(take(&sockets, now, way(1)).is_empty(), "there is no path yet");
        sockets.say_again(now);
        assert_eq!(take(&sockets, now, way(1)), [b"one", b"two"]);
        assert!(take(&sockets, now, way(1)).is_empty());
        assert_eq!(take(&sockets, now + SETTLING / 2, way(2)), [b"one", b"two"]);
        assert!(take(&sockets, now + SETTLING, way(3)).is_empty());
        assert!(!sockets.unheard.is_due());
        sockets.say_again(now + SETTLING);
        assert!(take(&sockets, now + SETTLING, way(1)).is_empty(), "it was said");
    }

    #[test]
    fn no_more_is_kept_and_no_more_ways_are_gone_than_is_of_use() {
        let (sockets, now) = (Sockets::default(), clock::now());
        for number in 0..100 {
            sockets.unheard.keep(vec![vec![number]]);
        }
        sockets.say_again(now);
        let newest: Vec<_> = (84..100).map(|number| vec![number]).collect();
        let said: Vec<_> = (0..100).map(|port| take(&sockets, now, way(port))).collect();
        assert_eq!(said.iter().filter(|said| **said == newest).count(), MOST_WAYS);
        assert!(said.iter().skip(MOST_WAYS).all(Vec::is_empty));
    }
}
