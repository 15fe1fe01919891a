//! What the operator asks of a worker, and how it does that: between two turns of its loop, so that nothing of a
//! datagram's way knows of it.

use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use rand::CryptoRng;
use tokio::sync::oneshot;

use super::engine::Engine;
use super::listeners::Listeners;
use super::secure_listeners::SecureListeners;
use super::succession::Step;
use crate::policy::Quota;
use crate::turn::{Admission, AllocationId, EndReason, Peers, Rules, Serial, Summary};

/// Something to do. Whoever asks may have gone by the time of the answer, which is nobody's loss.
#[derive(Debug)]
pub enum Command {
    /// Say which allocations there are.
    List {
        /// Which to name.
        wanted: Wanted,
        /// The oldest of them.
        answer: oneshot::Sender<Vec<Listed>>,
    },
    /// Say all about one.
    Find {
        /// Its name.
        serial: Serial,
        /// It, if it is here.
        answer: oneshot::Sender<Option<(Listed, Peers)>>,
    },
    /// End some.
    Close {
        /// Which.
        whose: Whose,
        /// How many.
        answer: oneshot::Sender<usize>,
    },
    /// Take new allocations, or none.
    Admit(Admission),
    /// Share the listening sockets with another process.
    Share {
        /// They, open here as well.
        answer: oneshot::Sender<io::Result<(Listeners, SecureListeners)>>,
    },
    /// Serve DTLS at these, too: the process that did so has ended.
    ServeDtls(Vec<std::net::UdpSocket>),
    /// Stand still but for these steps, as long as there may be more.
    StandStill(Receiver<Step>),
    /// Go by other rules.
    Follow {
        /// These.
        rules: Box<Rules>,
        /// And this book.
        quota: Quota,
    },
}

/// Which allocations to name.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only younger ones than this.
    pub after: Option<Serial>,
    /// Only of this user or account.
    pub user: Option<String>,
    /// Only of clients here, at this port if there is one.
    pub client: Option<(IpAddr, Option<u16>)>,
    /// At most so many.
    pub limit: usize,
}

impl Wanted {
    fn matches(&self, summary: &Summary) -> bool {
        let client = summary.flow.client.0;
        self.after.is_none_or(|after| summary.serial > after)
            && self.user.as_deref().is_none_or(|user| is_of(summary, user))
            && self
                .client
                .is_none_or(|(ip, port)| client.ip() == ip && port.is_none_or(|port| client.port() == port))
    }
}

fn is_of(summary: &Summary, user: &str) -> bool {
    *summary.user.name == *user || *summary.user.account == *user
}

/// Which allocations to end.
#[derive(Debug, Clone)]
pub enum Whose {
    /// The one of this name.
    Serial(Serial),
    /// All of a user or account.
    User(String),
}

/// An allocation, and what it has carried.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The allocation.
    pub summary: Summary,
    /// What went through it.
    pub traffic: Traffic,
    /// What time it is on the worker's clock.
    pub now: Instant,
}

/// What an allocation has carried: application data that was let through, without TURN framing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Traffic {
    /// From the client.
    pub to_peer: Count,
    /// To the client.
    pub to_client: Count,
}

/// Data one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Count {
    /// How many.
    pub datagrams: u64,
    /// How much in them.
    pub bytes: u64,
}

impl Count {
    /// One more.
    pub(super) fn add(&mut self, bytes: usize) {
        self.datagrams = self.datagrams.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(bytes as u64);
    }
}

/// The two ends of a worker's queue.
pub(super) fn queue() -> (SyncSender<Command>, Receiver<Command>) {
    sync_channel(QUEUE)
}

impl<R: CryptoRng> Engine<R> {
    /// Does what the operator wants.
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::List { wanted, answer } => {
                let _ = answer.send(self.list(&wanted));
            }
            Command::Find { serial, answer } => {
                let found = self.server.allocations().find(|summary| summary.serial == serial);
                let found = found.map(|summary| (summary.id, self.listed(summary)));
                let _ = answer.send(found.map(|(id, listed)| (listed, self.server.peers(id))));
            }
            Command::Close { whose, answer } => {
                let _ = answer.send(self.close(&whose));
            }
            // The worker's own affair.
            Command::Share { .. } | Command::StandStill(_) | Command::ServeDtls(_) => {}
            Command::Admit(admission) => self.server.admit(admission),
            Command::Follow { rules, quota } => {
                self.relays.set_quota(quota);
                self.server.follow(*rules);
                self.act();
            }
        }
    }

    /// Ends everything, as the process does. Says how many allocations that were.
    pub(super) fn end_all(&mut self) -> usize {
        let ids: Vec<AllocationId> = self.server.allocations().map(|summary| summary.id).collect();
        for id in &ids {
            self.server.close(*id, EndReason::Shutdown);
        }
        self.act();
        ids.len()
    }

    fn list(&self, wanted: &Wanted) -> Vec<Listed> {
        let mut found: Vec<_> = self.server.allocations().filter(|summary| wanted.matches(summary)).collect();
        found.sort_unstable_by_key(|summary| summary.serial);
        found.truncate(wanted.limit);
        found.into_iter().map(|summary| self.listed(summary)).collect()
    }

    fn listed(&self, summary: Summary) -> Listed {
        let traffic = self.relays.traffic(summary.id);
        Listed { summary, traffic, now: self.now.instant }
    }

    fn close(&mut self, whose: &Whose) -> usize {
        let is_meant = |summary: &Summary| match whose {
            Whose::Serial(serial) => summary.serial == *serial,
            Whose::User(user) => is_of(summary, user),
        };
        let ids: Vec<AllocationId> =
            self.server.allocations().filter(is_meant).map(|summary| summary.id).collect();
        for id in &ids {
            self.server.close(*id, EndReason::Closed);
        }
        self.act();
        ids.len()
    }
}

/// Commands that may wait: an operator has two hands.
const QUEUE: usize = 64;
