//! On the way out: by which socket, stream or worker a message goes, and what is counted once it is gone.

use rand::CryptoRng;

use super::backlog::Urgency;
use super::engine::{Engine, Via};
use super::handover::Parcel;
use super::outbox::{Envelope, Outcome, Purpose};
use crate::metrics::{Direction, DropReason, WorkerMetrics};
use crate::turn::{AllocationId, FiveTuple, Fragmentation, PeerAddr, RelayedAddr, Transport};

impl<R: CryptoRng> Engine<R> {
    pub(super) fn send_to_client(&mut self, flow: FiveTuple, message: &[u8], data_bytes: Option<usize>) {
        if let Some(carrier) = self.handover.carrier(&flow) {
            let parcel = Parcel::ToClient { flow, message: message.into(), data_bytes };
            if let Some(parcel) = self.handover.keep(carrier, parcel) {
                self.post(carrier, parcel);
            }
            return;
        }
        match flow.transport {
            Transport::Udp => self.send_datagram(flow, &[], message, data_bytes),
            Transport::Dtls => self.send_by_dtls(flow, message, data_bytes),
            Transport::Tcp | Transport::Tls => self.send_frame(flow, message, data_bytes),
        }
    }

    /// Sends from the listening socket that the client talks to.
    pub(super) fn send_datagram(
        &mut self,
        flow: FiveTuple,
        header: &[u8],
        message: &[u8],
        data_bytes: Option<usize>,
    ) {
        let Some((index, listener)) =
            self.udp.iter().enumerate().find(|(_, listener)| listener.serves(flow.server))
        else {
            return self.metrics.dropped(DropReason::SendFailed);
        };
        let from = listener.is_anywhere().then(|| flow.server.ip()).filter(|ip| !ip.is_unspecified());
        let purpose = if data_bytes.is_some() { Purpose::ToClient } else { Purpose::Answer };
        let envelope = Envelope { via: Via::Listener(index), to: flow.client.0, from, purpose };
        if self.outbox.push(envelope, header, message, data_bytes.unwrap_or_default()) {
            self.flush();
        }
    }

    /// Sends what has been gathered.
    pub(super) fn flush(&mut self) {
        let Self { outbox, relays, udp, metrics, .. } = self;
        let socket = |via| match via {
            Via::Listener(index) => udp.get(index).map(|listener| &listener.socket),
            Via::Relay(allocation) => relays.socket(allocation),
        };
        outbox.flush(socket, |outcome| count(metrics, &outcome));
    }

    fn send_frame(&mut self, flow: FiveTuple, frame: &[u8], data_bytes: Option<usize>) {
        let urgency = if data_bytes.is_some() { Urgency::Droppable } else { Urgency::Expected };
        // A stream that cannot be written to is closed when its end is read.
        let sent = self.streams.send(self.now.instant, &flow, frame, urgency).is_ok();
        self.count_to_client(sent, data_bytes);
    }

    pub(super) fn count_to_client(&self, is_sent: bool, data_bytes: Option<usize>) {
        match (is_sent, data_bytes) {
            (true, Some(bytes)) => self.metrics.forwarded(Direction::ToClient, 1, bytes),
            (true, None) => {}
            (false, _) => self.metrics.dropped(DropReason::SendFailed),
        }
    }

    pub(super) fn send_to_peer(
        &mut self,
        allocation: AllocationId,
        peer: PeerAddr,
        data: &[u8],
        fragmentation: Fragmentation,
    ) {
        if !self.may_relay(allocation, Direction::ToPeer, data.len()) {
            return;
        }
        if let Some((worker, from)) = self.relays.beside(allocation, peer) {
            return self.send_beside(worker, RelayedAddr(peer.0), from, data);
        }
        match fragmentation {
            Fragmentation::Allowed => {
                let via = Via::Relay(allocation);
                let envelope = Envelope { via, to: peer.0, from: None, purpose: Purpose::ToPeer };
                if self.outbox.push(envelope, &[], data, data.len()) {
                    self.flush();
                }
            }
            Fragmentation::Forbidden => {
                // The socket is set for this datagram alone.
                self.flush();
                let sent = self.relays.send_whole(allocation, peer.0, data);
                let data_bytes = data.len();
                count(&self.metrics, &Outcome { purpose: Purpose::ToPeer, datagrams: 1, data_bytes, sent });
            }
        }
    }

    /// Sends to a relay of this very server, which has no need of the kernel. Nobody but its owner can say whether `from`
    /// may send to it.
    fn send_beside(&mut self, worker: usize, to: RelayedAddr, from: PeerAddr, data: &[u8]) {
        self.metrics.forwarded(Direction::ToPeer, 1, data.len());
        self.metrics.relayed_inside();
        if worker == self.post.worker() {
            self.handle_beside(to, from, data);
        } else {
            let lost = self.post.put(worker, to, from, data);
            self.metrics.dropped_many(DropReason::ReceiveBufferFull, lost);
        }
    }
}

fn count(metrics: &WorkerMetrics, outcome: &Outcome) {
    let Outcome { purpose, datagrams, data_bytes, sent } = outcome;
    match (sent, purpose) {
        (Ok(()), Purpose::ToClient) => metrics.forwarded(Direction::ToClient, *datagrams, *data_bytes),
        (Ok(()), Purpose::ToPeer) => metrics.forwarded(Direction::ToPeer, *datagrams, *data_bytes),
        (Ok(()), Purpose::Answer) => {}
        (Err(error), _) => {
            let reason = match error.kind() == std::io::ErrorKind::WouldBlock || is_no_buffers(error) {
                true => DropReason::SendBufferFull,
                false => DropReason::SendFailed,
            };
            metrics.dropped_many(reason, *datagrams);
        }
    }
}

fn is_no_buffers(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}
