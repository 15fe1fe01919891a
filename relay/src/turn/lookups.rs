//! Requests that wait until somebody says whose they are.
//!
//! Only who has returned a nonce gets this far, one request of a client waits at a time, and there is room for so many
//! clients. A retransmission takes the place of what it repeats.

use std::collections::{BTreeMap, BTreeSet};

use rand::CryptoRng;

use super::{Action, FiveTuple, Now, Server, Transport};
use crate::auth::{Answer, LookUp, Query};
use crate::metrics::DropReason;
use crate::stun::Message;

/// What waits, and for which answers.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    requests: BTreeMap<FiveTuple, (Query, Box<[u8]>)>,
    asked: BTreeSet<Query>,
}

impl Waiting {
    pub(super) fn forget(&mut self, flow: FiveTuple) {
        self.requests.remove(&flow);
    }

    /// Nobody waits any more of whom this is true.
    pub(super) fn forget_all(&mut self, went: impl Fn(&FiveTuple) -> bool) {
        self.requests.retain(|flow, _| !went(flow));
    }

    /// Who waits, and with what.
    pub(super) fn requests(&self) -> impl Iterator<Item = (&FiveTuple, &[u8])> {
        // For whose answer follows from the request.
        let Self { requests, asked: _ } = self;
        requests.iter().map(|(flow, (_, message))| (flow, &**message))
    }
}

impl<R: CryptoRng> Server<R> {
    /// Keeps a request until its sender is known, and asks unless that is under way.
    pub(super) fn look_up(&mut self, now: Now, flow: FiveTuple, message: &Message<'_>) {
        let Some(query) = self.parts.authenticator.query(flow.ends(), message) else { return };
        let is_new = !self.waiting.requests.contains_key(&flow);
        if is_new && self.waiting.requests.len() >= MAX_WAITING {
            return self.drop_datagram(DropReason::LookupsFull);
        }
        let is_asked = self.waiting.asked.contains(&query);
        if !is_asked && !self.may_refuse_stranger(now, flow) {
            return;
        }
        self.waiting.requests.insert(flow, (query.clone(), message.as_bytes().into()));
        if !is_asked {
            self.waiting.asked.insert(query.clone());
            let transport = match flow.transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
                Transport::Tls => "tls",
                Transport::Dtls => "dtls",
            };
            self.push(Action::LookUp(LookUp { query, client: flow.client.0, transport }));
        }
    }

    /// What came of a `LookUp`: whoever waited for it is answered.
    pub fn handle_looked_up(&mut self, now: Now, query: &Query, answer: Answer) {
        self.parts.authenticator.learn(now.instant, query.clone(), answer);
        self.waiting.asked.remove(query);
        let ready: Vec<_> =
            self.waiting.requests.extract_if(.., |_, (waits_for, _)| *waits_for == *query).collect();
        for (flow, (_, datagram)) in ready {
            self.handle_datagram(now, flow, &datagram);
        }
    }
}

/// Clients of one worker whose requests wait.
const MAX_WAITING: usize = 1024;
