//! From one relayed address of this server to another, past the kernel.
//!
//! Whether data may reach a client is known to the worker that owns its allocation, and to nobody else; so data for
//! another worker's relay is handed to that worker, which treats it as if it had come to the relay's socket. A turn's
//! worth goes as one parcel through a bounded queue without locks, and whoever is busy is not woken: it looks into its
//! mailbox at every turn. Parcels are used again, so that a datagram costs a copy and no allocation.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};

use crossbeam_queue::ArrayQueue;
use mio::Waker;

use crate::turn::{PeerAddr, RelayedAddr};

/// The mailboxes of all workers.
#[derive(Debug, Clone)]
pub struct Exchange {
    mailboxes: Arc<[Mailbox]>,
    spares: Arc<ArrayQueue<Parcel>>,
}

#[derive(Debug)]
struct Mailbox {
    parcels: ArrayQueue<Parcel>,
    is_asleep: AtomicBool,
    waker: OnceLock<Arc<Waker>>,
}

impl Exchange {
    /// For this many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let mailbox = || Mailbox {
            parcels: ArrayQueue::new(MAX_PARCELS),
            is_asleep: AtomicBool::new(false),
            waker: OnceLock::new(),
        };
        let spares = Arc::new(ArrayQueue::new(MAX_PARCELS * workers.max(1)));
        Self { mailboxes: (0..workers).map(|_| mailbox()).collect(), spares }
    }

    /// The place of one of them.
    pub(super) fn join(&self, worker: usize, waker: &Arc<Waker>) -> Post {
        if let Some(mailbox) = self.mailboxes.get(worker) {
            // A second worker of this number would be a mistake of ours; the first goes on being woken.
            let _ = mailbox.waker.set(Arc::clone(waker));
        }
        let outgoing = self.mailboxes.iter().map(|_| Parcel::default()).collect();
        Post { exchange: self.clone(), worker, outgoing, has_outgoing: false }
    }
}

/// One worker's end.
#[derive(Debug)]
pub(super) struct Post {
    exchange: Exchange,
    worker: usize,
    /// By worker, what this turn has for it.
    outgoing: Vec<Parcel>,
    has_outgoing: bool,
}

impl Post {
    /// Which worker this is.
    pub(super) fn worker(&self) -> usize {
        self.worker
    }

    /// Adds a datagram to what another worker gets at the end of this turn. Returns how many were lost for it.
    pub(super) fn put(&mut self, worker: usize, to: RelayedAddr, from: PeerAddr, data: &[u8]) -> usize {
        let Some(parcel) = self.outgoing.get_mut(worker) else { return 1 };
        parcel.put(to, from, data);
        self.has_outgoing = true;
        if parcel.is_full() { self.dispatch_to(worker) } else { 0 }
    }

    /// Hands over what this turn had for others. Returns how many datagrams were lost because somebody is too slow.
    pub(super) fn dispatch(&mut self) -> usize {
        if !std::mem::take(&mut self.has_outgoing) {
            return 0;
        }
        (0..self.outgoing.len()).map(|worker| self.dispatch_to(worker)).sum()
    }

    fn dispatch_to(&mut self, worker: usize) -> usize {
        let Some(outgoing) = self.outgoing.get_mut(worker).filter(|parcel| !parcel.is_empty()) else {
            return 0;
        };
        let Some(mailbox) = self.exchange.mailboxes.get(worker) else { return 0 };
        let parcel = std::mem::replace(outgoing, self.exchange.spares.pop().unwrap_or_default());
        if let Err(mut refused) = mailbox.parcels.push(parcel) {
            let lost = refused.len();
            refused.clear();
            *outgoing = refused;
            return lost;
        }
        // Either it sees the parcel before it sleeps, or we see that it sleeps.
        fence(Ordering::SeqCst);
        if mailbox.is_asleep.swap(false, Ordering::Relaxed)
            && let Some(waker) = mailbox.waker.get()
        {
            // It cannot fail but for a descriptor that is gone, and with it the worker.
            let _ = waker.wake();
        }
        0
    }

    /// The next parcel for this worker.
    pub(super) fn take(&self) -> Option<Parcel> {
        self.exchange.mailboxes.get(self.worker)?.parcels.pop()
    }

    /// Gives an emptied parcel back for others to fill.
    pub(super) fn give_back(&self, mut parcel: Parcel) {
        parcel.clear();
        // With enough spares it is dropped.
        let _ = self.exchange.spares.push(parcel);
    }

    /// Says that this worker is about to wait, and whether it had better not.
    pub(super) fn may_sleep(&self) -> bool {
        let Some(mailbox) = self.exchange.mailboxes.get(self.worker) else { return true };
        mailbox.is_asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        mailbox.parcels.is_empty()
    }

    /// Says that it is awake and will look by itself.
    pub(super) fn wake_up(&self) {
        if let Some(mailbox) = self.exchange.mailboxes.get(self.worker) {
            mailbox.is_asleep.store(false, Ordering::Relaxed);
        }
    }
}

/// Datagrams for one worker.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    bytes: Vec<u8>,
    /// To and from, and where each ends.
    labels: Vec<(RelayedAddr, PeerAddr, usize)>,
}

impl Parcel {
    fn put(&mut self, to: RelayedAddr, from: PeerAddr, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        self.labels.push((to, from, self.bytes.len()));
    }

    fn is_full(&self) -> bool {
        self.labels.len() >= MAX_DATAGRAMS || self.bytes.len() >= MAX_BYTES
    }

    fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        // One long datagram should not be paid for ever after.
        self.bytes.shrink_to(MAX_BYTES);
        self.labels.clear();
    }

    /// What is in it, in order.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = (RelayedAddr, PeerAddr, &[u8])> {
        let begins = std::iter::once(0).chain(self.labels.iter().map(|(.., end)| *end));
        self.labels
            .iter()
            .zip(begins)
            .map(|((to, from, end), begin)| (*to, *from, self.bytes.get(begin..*end).unwrap_or_default()))
    }
}

/// Parcels that wait for one worker.
const MAX_PARCELS: usize = 256;
const MAX_DATAGRAMS: usize = 64;
const MAX_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::thread;
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    fn at(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    #[test]
    fn all_that_is_put_comes_out_in_order_and_a_sleeper_is_woken() {
        const COUNT: u32 = 20_000;
        let exchange = Exchange::new(2);
        let mut polls = [Poll::new().unwrap(), Poll::new().unwrap()];
        let wakers = [0, 1].map(|worker| Arc::new(Waker::new(polls[worker].registry(), Token(0)).unwrap()));
        let mut sender = exchange.join(0, &wakers[0]);
        let receiver = exchange.join(1, &wakers[1]);
        let sending = thread::spawn(move || {
            let mut lost = 0;
            for number in 0..COUNT {
                lost += sender.put(1, RelayedAddr(at(1)), PeerAddr(at(2)), &number.to_be_bytes());
                if number % 3 == 0 {
                    lost += sender.dispatch();
                }
            }
            lost + sender.dispatch()
        });
        let mut received = Vec::new();
        let mut events = Events::with_capacity(4);
        loop {
            if receiver.may_sleep() {
                let ended = sending.is_finished();
                polls[1].poll(&mut events, Some(Duration::from_secs(u64::from(!ended) * 20))).unwrap();
                assert!(ended || !events.is_empty() || sending.is_finished(), "asleep beside a full mailbox");
            }
            receiver.wake_up();
            let before = received.len();
            while let Some(parcel) = receiver.take() {
                for (to, from, data) in parcel.datagrams() {
                    assert_eq!((to, from), (RelayedAddr(at(1)), PeerAddr(at(2))));
                    received.push(u32::from_be_bytes(data.try_into().unwrap()));
                }
                receiver.give_back(parcel);
            }
            if sending.is_finished() && received.len() == before {
                break;
            }
        }
        let lost = sending.join().unwrap();
        assert_eq!(received.len() + lost, COUNT as usize);
        assert!(received.is_sorted(), "in order");
    }

    #[test]
    fn what_does_not_fit_is_counted_and_nothing_waits_for_it() {
        let exchange = Exchange::new(2);
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let mut sender = exchange.join(0, &waker);
        let lost: usize = (0..MAX_PARCELS + 3)
            .map(|_| sender.put(1, RelayedAddr(at(1)), PeerAddr(at(2)), b"x") + sender.dispatch())
            .sum();
        assert_eq!(lost, 3);
    }
}
