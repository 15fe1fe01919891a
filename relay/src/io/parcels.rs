//! Clients that workers share: what the engine does with what others have for it. Who shares whom, `handover.rs` knows.

use rand::CryptoRng;

use super::engine::Engine;
use super::handover::Parcel;
use crate::metrics::DropReason;
use crate::turn::{FiveTuple, Transport, WorkerIndex};

impl<R: CryptoRng> Engine<R> {
    /// What other workers have for this one. Returns how much that was.
    pub(super) fn handle_parcels(&mut self) -> usize {
        for handled in 0..MAX_PARCELS_A_TURN {
            match self.handover.take() {
                None => return handled,
                Some(Parcel::FromClient { flow, message }) => {
                    if !self.forward_to_peer(flow, &message) {
                        self.handle_new_bytes(flow, &message);
                    }
                }
                Some(Parcel::HandedOver { flow, message, by }) => self.adopt(flow, &message, by),
                Some(Parcel::Adopted { flow, by }) => self.give_away(flow, by),
                Some(Parcel::ToClient { flow, message, data_bytes }) => {
                    self.send_to_client(flow, &message, data_bytes);
                }
                Some(Parcel::Stream(moved)) => self.adopt_stream(*moved),
                Some(Parcel::Ended { flow }) => {
                    self.handover.forget_carrier(&flow);
                    self.server.handle_flow_closed(flow);
                    self.act();
                }
            }
        }
        MAX_PARCELS_A_TURN
    }

    /// Handles what came to another worker, and keeps the client if it turns out to be one of ours. Whoever was passed
    /// on from here to others before has come back, and needs nobody in between: so no worker waits for itself.
    fn adopt(&mut self, flow: FiveTuple, message: &[u8], by: WorkerIndex) {
        let has_come_back = self.handover.forget_owner(&flow).is_some();
        let was_ours = self.server.expects(&flow);
        if !has_come_back && !was_ours && flow.transport != Transport::Udp {
            self.handover.set_carrier(flow, by);
        }
        // Whoever carries the answer to the client must know beforehand whose it is.
        self.handover.hold();
        self.handle_new_bytes(flow, message);
        let is_ours = self.server.expects(&flow);
        if is_ours && !was_ours && !has_come_back {
            self.post(by, Parcel::Adopted { flow, by: self.handover.own() });
        }
        if !is_ours && !was_ours && !has_come_back {
            self.handover.forget_carrier(&flow);
        }
        for (carrier, parcel) in self.handover.let_go() {
            self.post(carrier, parcel);
        }
    }

    /// A client turned out to be another's. If its stream has ended since, that one should know.
    fn give_away(&mut self, flow: FiveTuple, owner: WorkerIndex) {
        let is_gone = flow.transport.is_stream() && !self.streams.contains(&flow);
        if is_gone {
            return self.post(owner, Parcel::Ended { flow });
        }
        self.handover.set_owner(self.now.instant, flow, owner);
    }

    /// Passes on what a client of another worker says. False if it is ours.
    pub(super) fn pass_on(&mut self, flow: FiveTuple, bytes: &[u8]) -> bool {
        let Some(owner) = self.handover.owner(self.now.instant, &flow) else { return false };
        self.post(owner, Parcel::FromClient { flow, message: bytes.into() });
        true
    }

    pub(super) fn post(&self, to: WorkerIndex, parcel: Parcel) {
        if !self.handover.post(to, parcel) {
            self.metrics.dropped(DropReason::Backlog);
        }
    }
}

/// Enough to keep up, few enough to be fair to the sockets.
const MAX_PARCELS_A_TURN: usize = 256;
