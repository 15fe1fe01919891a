//! Clients that change their address and keep their allocations. RFC 8016.
//!
//! A ticket proves that its bearer was given it; the request that carries it must be signed by who made the allocation.
//! Until the client uses its new address, the old one goes on being good, so that nobody is cut off by an answer
//! that was lost.

use std::collections::HashMap;
use std::time::Duration;

use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use super::handles::{TICKET_TEXT_BYTES, TicketId};
use super::reply::Reply;
use super::requests::KNOWN;
use super::snapshot::SavedFlow;
use super::{Action, AllocationId, FiveTuple, Now, Reject, Server, lifetime};
use crate::auth::Refusal;
use crate::stun::{AttributeType, Message, TransactionId};

/// The clients that may move.
#[derive(Debug, Default)]
pub(super) struct Mobiles {
    by_flow: HashMap<FiveTuple, Mobile>,
    by_ticket: HashMap<TicketId, FiveTuple>,
    /// Addresses that clients have moved to and not used yet, and where they came from.
    arriving: HashMap<FiveTuple, FiveTuple>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
struct Mobile {
    /// The latest ticket.
    ticket: TicketId,
    /// For which request, so that it comes again with the same answer.
    issued_for: TransactionId,
    /// The ticket that was given for it, which stays good as long as the answer may have been lost.
    before: Option<TicketId>,
    moving_to: Option<FiveTuple>,
}

/// One of them as data.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedMobile {
    flow: SavedFlow,
    ticket: TicketId,
    issued_for: [u8; 12],
    before: Option<TicketId>,
    moving_to: Option<SavedFlow>,
}

impl Mobiles {
    /// Those who leave for another process, each on its way only to where that one is.
    pub(super) fn save(
        &self,
        leaves: impl Fn(&FiveTuple) -> bool,
        goes: impl Fn(&FiveTuple) -> bool,
    ) -> Vec<SavedMobile> {
        // Where they arrive and what they bring follows from each of them.
        let Self { by_flow, by_ticket: _, arriving: _ } = self;
        let save = |(flow, mobile): (&FiveTuple, &Mobile)| {
            let Mobile { ticket, issued_for, before, moving_to } = *mobile;
            let moving_to = moving_to.filter(|to| goes(to)).map(SavedFlow::from);
            SavedMobile { flow: (*flow).into(), ticket, issued_for: issued_for.0, before, moving_to }
        };
        by_flow.iter().filter(|(flow, _)| leaves(flow)).map(save).collect()
    }

    /// Puts one back as it was in another process.
    pub(super) fn restore(&mut self, saved: SavedMobile) {
        let SavedMobile { flow, ticket, issued_for, before, moving_to } = saved;
        let flow = flow.into();
        for ticket in [Some(ticket), before].into_iter().flatten() {
            self.by_ticket.insert(ticket, flow);
        }
        self.by_flow
            .insert(flow, Mobile { ticket, issued_for: TransactionId(issued_for), before, moving_to: None });
        if let Some(to) = moving_to {
            self.expect(flow, to.into());
        }
    }

    /// Makes a client mobile.
    pub(super) fn add(&mut self, flow: FiveTuple, ticket: TicketId, issued_for: TransactionId) {
        self.by_ticket.insert(ticket, flow);
        self.by_flow.insert(flow, Mobile { ticket, issued_for, before: None, moving_to: None });
    }

    /// A client has no allocation any more.
    pub(super) fn forget(&mut self, flow: FiveTuple) {
        let Some(mobile) = self.by_flow.remove(&flow) else { return };
        self.by_ticket.remove(&mobile.ticket);
        mobile.before.map(|before| self.by_ticket.remove(&before));
        mobile.moving_to.map(|to| self.arriving.remove(&to));
    }

    pub(super) fn ticket(&self, flow: FiveTuple) -> Option<TicketId> {
        self.by_flow.get(&flow).map(|mobile| mobile.ticket)
    }

    pub(super) fn contains(&self, flow: FiveTuple) -> bool {
        self.by_flow.contains_key(&flow)
    }

    /// Where the client with this ticket is.
    fn owner(&self, ticket: TicketId) -> Option<FiveTuple> {
        self.by_ticket.get(&ticket).copied()
    }

    /// Whether this is the request that brought a client here.
    fn is_repeated(&self, flow: FiveTuple, id: TransactionId) -> bool {
        let from = self.arriving.get(&flow).and_then(|from| self.by_flow.get(from));
        from.is_some_and(|mobile| mobile.issued_for == id)
    }

    /// Gives a new ticket for an old one; the same for the same request.
    fn exchange(
        &mut self,
        flow: FiveTuple,
        used: TicketId,
        issued_for: TransactionId,
        new: TicketId,
    ) -> Option<TicketId> {
        let mobile = self.by_flow.get_mut(&flow)?;
        if mobile.issued_for == issued_for && mobile.before == Some(used) {
            return Some(mobile.ticket);
        }
        for dropped in [Some(mobile.ticket), mobile.before].into_iter().flatten().filter(|id| *id != used) {
            self.by_ticket.remove(&dropped);
        }
        (mobile.ticket, mobile.before, mobile.issued_for) = (new, Some(used), issued_for);
        self.by_ticket.insert(new, flow);
        Some(new)
    }

    /// From now on a client may use another address.
    fn expect(&mut self, from: FiveTuple, to: FiveTuple) {
        let Some(mobile) = self.by_flow.get_mut(&from) else { return };
        if let Some(before) = mobile.moving_to.replace(to) {
            self.arriving.remove(&before);
        }
        self.arriving.insert(to, from);
    }

    /// Where a client is about to go from here.
    pub(super) fn destination(&self, from: FiveTuple) -> Option<FiveTuple> {
        self.by_flow.get(&from)?.moving_to
    }

    /// Nobody will arrive at this address.
    pub(super) fn expect_no_more(&mut self, at: FiveTuple) {
        let from = self.arriving.remove(&at);
        if let Some(mobile) = from.and_then(|from| self.by_flow.get_mut(&from)) {
            mobile.moving_to = None;
        }
    }

    /// A client uses its new address, or lost the old one. Returns that.
    fn arrive(&mut self, to: FiveTuple) -> Option<FiveTuple> {
        if self.arriving.is_empty() {
            return None;
        }
        let from = self.arriving.remove(&to)?;
        let mut mobile = self.by_flow.remove(&from)?;
        mobile.before.take().map(|before| self.by_ticket.remove(&before));
        mobile.moving_to = None;
        self.by_ticket.insert(mobile.ticket, to);
        self.by_flow.insert(to, mobile);
        Some(from)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_flow.is_empty() && self.by_ticket.is_empty() && self.arriving.is_empty()
    }
}

impl<R: CryptoRng> Server<R> {
    /// Whether a client has an allocation or is about to come for one.
    #[must_use]
    pub fn expects(&self, flow: &FiveTuple) -> bool {
        self.clients.contains(*flow) || self.mobiles.arriving.contains_key(flow)
    }

    /// Something came from an address. If a client was expected there, it has moved.
    pub(super) fn settle(&mut self, to: FiveTuple) {
        let Some(from) = self.mobiles.arrive(to) else { return };
        for id in self.clients.all(from).collect::<Vec<_>>() {
            self.readdress(id, to);
            self.clients.remove(from, id);
            self.clients.add(to, id);
        }
        info!(transport = ?to.transport, "Client moved");
        debug!(before = %from.client, client = %to.client, "Client moved to");
    }

    /// Like `settle`, but for the request that told of the new address: it is no use of it when it comes twice.
    pub(super) fn settle_unless_repeated(&mut self, flow: FiveTuple, id: TransactionId) {
        if !self.mobiles.is_repeated(flow, id) {
            self.settle(flow);
        }
    }

    fn readdress(&mut self, id: AllocationId, to: FiveTuple) {
        let Some(allocation) = self.allocations.get_mut(id.0) else { return };
        let mut routes = Vec::new();
        for (channel, binding) in allocation.channels.iter() {
            if allocation.permissions.contains(binding.peer.0.ip()) {
                let peer = self.config.addresses.on_the_wire(binding.peer);
                routes.push(allocation.route(channel, peer));
            }
        }
        allocation.flow = to;
        for route in routes {
            self.push(Action::RemoveRoute(route));
            self.push(Action::InstallRoute(super::Route { flow: to, ..route }));
        }
    }

    /// A Refresh from an address that has no allocation, with a ticket for one elsewhere. Section 3.2.
    pub(super) fn handle_ticket(&mut self, now: Now, flow: FiveTuple, message: &Message<'_>, text: &[u8]) {
        let mut reply = Reply::to(flow, message);
        let ticket = self.parts.handles.read_ticket(text);
        if let Some(worker) =
            ticket.map(TicketId::worker).filter(|worker| *worker != self.parts.handles.worker())
        {
            return self.push(Action::HandOver { flow, worker, message: message.as_bytes().to_vec() });
        }
        let from = ticket.and_then(|ticket| self.mobiles.owner(ticket));
        let allocation = from.and_then(|from| self.clients.all(from).next());
        let allocation = allocation.and_then(|id| self.allocations.get(id.0));
        let known = allocation.map(|allocation| &allocation.credential);
        let asker = match self.parts.authenticator.authenticate(now, flow.ends(), message, known) {
            Ok(asker) => asker,
            Err(Refusal::NotYetKnown) => return self.look_up(now, flow, message),
            Err(refusal) => return self.refuse_stranger(now, &reply, refusal),
        };
        reply.sign_as(&asker);
        if message.unknown_attributes(KNOWN).next().is_some() {
            return self.reject_unknown(&reply, message, KNOWN);
        }
        let result = match (ticket, from, known) {
            (None, _, _) => Err(Reject::BadRequest),
            (Some(_), None, _) | (Some(_), _, None) => Err(Reject::AllocationMismatch),
            (Some(_), Some(_), Some(owner)) if !asker.credential.may_act_for(owner) => {
                Err(Reject::WrongCredentials)
            }
            (Some(_), Some(from), Some(_)) => self
                .refresh_allocations(now, &reply, from, &asker.credential, message)
                .map(|granted| (from, granted)),
        };
        match result {
            Ok((from, granted)) => {
                if !granted.is_zero() {
                    self.mobiles.expect(from, flow);
                }
                self.respond_refreshed(&reply, granted, from, ticket);
            }
            Err(reject) => self.reject(&reply, reject),
        }
    }

    /// The success response of a Refresh, with another ticket if it came with one.
    pub(super) fn respond_refreshed(
        &mut self,
        reply: &Reply,
        granted: Duration,
        holder: FiveTuple,
        used: Option<TicketId>,
    ) {
        let new = self.parts.handles.new_ticket(&mut self.parts.rng);
        let ticket = used.and_then(|used| self.mobiles.exchange(holder, used, reply.transaction_id, new));
        let ticket = ticket.map(|ticket| self.parts.handles.ticket_text(ticket));
        self.succeed(reply, |writer| {
            writer.attribute(AttributeType::LIFETIME, &lifetime::to_value(granted));
            if let Some(ticket) = ticket {
                writer.attribute(AttributeType::MOBILITY_TICKET, &ticket);
            }
        });
    }

    /// The ticket of a Refresh from where the allocation is: one of its own, if any.
    pub(super) fn presented_ticket(
        &self,
        flow: FiveTuple,
        message: &Message<'_>,
    ) -> Result<Option<TicketId>, Reject> {
        let Some(text) = message.find(AttributeType::MOBILITY_TICKET) else { return Ok(None) };
        let ticket = self.parts.handles.read_ticket(text);
        let ticket = ticket.filter(|ticket| self.mobiles.owner(*ticket) == Some(flow));
        ticket.map(Some).ok_or(Reject::BadRequest)
    }

    /// What an Allocate gets that asks to be mobile.
    pub(super) fn first_ticket(&self, flow: FiveTuple) -> Option<[u8; TICKET_TEXT_BYTES]> {
        self.mobiles.ticket(flow).map(|ticket| self.parts.handles.ticket_text(ticket))
    }
}
