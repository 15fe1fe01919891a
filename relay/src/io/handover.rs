//! Between workers: a client whose datagrams or stream reach another worker than its allocation's.
//!
//! It happens when a client moves (RFC 8016), or comes for a port that was held for it or for a connection (RFC 6062): the kernel knows nothing of that
//! and hashes the new address to some worker. That one then passes on what the client says, and where the answers
//! need its stream, passes those back. Everybody else's datagrams never meet a queue.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mio::Waker;

use super::tcp_relay::MovedStream;
use crate::turn::{FiveTuple, SavedFlow, Transport, WorkerIndex};

/// What one worker has for another.
#[derive(Debug)]
pub(super) enum Parcel {
    /// From a client of yours, as you told me.
    FromClient { flow: FiveTuple, message: Box<[u8]> },
    /// From somebody who brings a handle of yours.
    HandedOver { flow: FiveTuple, message: Box<[u8]>, by: WorkerIndex },
    /// It is mine; send on what else it says.
    Adopted { flow: FiveTuple, by: WorkerIndex },
    /// For a client whose connection is yours.
    ToClient { flow: FiveTuple, message: Box<[u8]>, data_bytes: Option<usize> },
    /// The connection of a client of yours ended.
    Ended { flow: FiveTuple },
    /// A stream whose client came for a connection of yours.
    Stream(Box<MovedStream>),
}

/// Where a worker is reached.
#[derive(Debug, Clone)]
struct Address {
    sender: SyncSender<Parcel>,
    /// Set once the worker is, and before it runs.
    waker: Arc<OnceLock<Arc<Waker>>>,
}

/// One worker's end of it all.
#[derive(Debug)]
pub struct Handover {
    own: WorkerIndex,
    inbox: Receiver<Parcel>,
    workers: Vec<Address>,
    /// Clients that talk to this worker and belong to another, and when they last did.
    owners: HashMap<FiveTuple, (WorkerIndex, Instant)>,
    /// Clients that belong to this worker and whose connection is another's.
    carriers: HashMap<FiveTuple, WorkerIndex>,
    /// What is to wait until something else is said, while something is.
    held: Option<Vec<(WorkerIndex, Parcel)>>,
}

impl Handover {
    /// One for each of so many workers.
    #[must_use]
    pub fn among(workers: WorkerIndex) -> Vec<Self> {
        let (inboxes, addresses): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (sender, inbox) = sync_channel(MAX_PARCELS);
                (inbox, Address { sender, waker: Arc::default() })
            })
            .unzip();
        let make = |(own, inbox)| Self {
            own,
            inbox,
            workers: addresses.clone(),
            owners: HashMap::new(),
            carriers: HashMap::new(),
            held: None,
        };
        (0..workers).zip(inboxes).map(make).collect()
    }

    /// Which worker this is.
    pub(super) fn own(&self) -> WorkerIndex {
        self.own
    }

    /// From now on the others can wake this one.
    pub(super) fn set_waker(&self, waker: &Arc<Waker>) {
        if let Some(address) = self.workers.get(usize::from(self.own)) {
            // It is set once, by the one worker there is.
            let _ = address.waker.set(Arc::clone(waker));
        }
    }

    /// Gives another worker something. False if it has too much to do already.
    pub(super) fn post(&self, to: WorkerIndex, parcel: Parcel) -> bool {
        let Some(address) = self.workers.get(usize::from(to)) else { return false };
        let is_sent = address.sender.try_send(parcel).is_ok();
        if let Some(waker) = address.waker.get() {
            // One that cannot be woken is ending.
            let _ = waker.wake();
        }
        is_sent
    }

    /// The next parcel, if there is one.
    pub(super) fn take(&self) -> Option<Parcel> {
        self.inbox.try_recv().ok()
    }

    /// Whose client this is, if another's.
    pub(super) fn owner(&mut self, now: Instant, flow: &FiveTuple) -> Option<WorkerIndex> {
        if self.owners.is_empty() {
            return None;
        }
        let (owner, heard_at) = self.owners.get_mut(flow)?;
        *heard_at = now;
        Some(*owner)
    }

    /// Whether this client is another's.
    pub(super) fn is_anothers(&self, flow: &FiveTuple) -> bool {
        self.owners.contains_key(flow)
    }

    /// A client is another worker's from now on.
    pub(super) fn set_owner(&mut self, now: Instant, flow: FiveTuple, owner: WorkerIndex) {
        if self.owners.len() < MAX_CLIENTS {
            self.owners.insert(flow, (owner, now));
        }
    }

    /// A client is gone. Returns whose it was.
    pub(super) fn forget_owner(&mut self, flow: &FiveTuple) -> Option<WorkerIndex> {
        self.owners.remove(flow).map(|(owner, _)| owner)
    }

    /// The clients by UDP that this worker passes on, to whom, and how long ago they were last heard.
    pub(super) fn save_owners(&self, now: Instant) -> Vec<(SavedFlow, WorkerIndex, Duration)> {
        // Carriers are connections, which stay; nothing is held between two turns; the rest is made anew.
        let Self { own: _, inbox: _, workers: _, owners, carriers: _, held: _ } = self;
        let by_udp = owners.iter().filter(|(flow, _)| flow.transport == Transport::Udp);
        by_udp
            .map(|(flow, (owner, heard_at))| {
                ((*flow).into(), *owner, now.saturating_duration_since(*heard_at))
            })
            .collect()
    }

    /// Goes on passing them on.
    pub(super) fn restore_owners(&mut self, now: Instant, saved: Vec<(SavedFlow, WorkerIndex, Duration)>) {
        for (flow, owner, silent_for) in saved {
            self.set_owner(now.checked_sub(silent_for).unwrap_or(now), flow.into(), owner);
        }
    }

    /// Clients by UDP are another process's from now on.
    pub(super) fn forget_owners_of_udp(&mut self) {
        self.owners.retain(|flow, _| flow.transport != Transport::Udp);
    }

    /// Forgets clients that have not been heard of for longer than any allocation lives.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.owners.retain(|flow, (_, heard_at)| {
            flow.transport.is_stream() || now.saturating_duration_since(*heard_at) < SILENCE
        });
    }

    /// From now on answers wait.
    pub(super) fn hold(&mut self) {
        self.held = Some(Vec::new());
    }

    /// Keeps an answer if answers wait, else gives it back.
    pub(super) fn keep(&mut self, to: WorkerIndex, parcel: Parcel) -> Option<Parcel> {
        match &mut self.held {
            None => Some(parcel),
            Some(held) => {
                held.push((to, parcel));
                None
            }
        }
    }

    /// Ends the waiting. Returns what has waited.
    pub(super) fn let_go(&mut self) -> Vec<(WorkerIndex, Parcel)> {
        self.held.take().unwrap_or_default()
    }

    /// Whose connection a client of this worker has, if another's.
    pub(super) fn carrier(&self, flow: &FiveTuple) -> Option<WorkerIndex> {
        if self.carriers.is_empty() { None } else { self.carriers.get(flow).copied() }
    }

    pub(super) fn set_carrier(&mut self, flow: FiveTuple, carrier: WorkerIndex) {
        self.carriers.insert(flow, carrier);
    }

    pub(super) fn forget_carrier(&mut self, flow: &FiveTuple) {
        self.carriers.remove(flow);
    }
}

/// A worker that is so far behind drops what comes.
const MAX_PARCELS: usize = 4096;
/// Clients of others that one worker passes on.
const MAX_CLIENTS: usize = 16_384;
/// Longer than the longest lifetime.
const SILENCE: Duration = Duration::from_secs(2 * 3600);
