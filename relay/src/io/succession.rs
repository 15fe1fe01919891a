//! What a worker gives away, and what its successor in another process takes over.
//!
//! Sockets go as they are, so that what the kernel keeps for them waits there while nobody reads. A worker that stands
//! still takes nothing in and does as it is told, step by step; if whoever tells it goes away, it goes on as if it had
//! not been asked. Clients by stream stay: their sockets are one process's affair with what has been read and not yet
//! handled.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use mio::Interest;
use mio::unix::SourceFd;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::command::Traffic;
use super::dtls::DtlsClients;
use super::engine::Engine;
use super::handover::Handover;
use super::listeners::Listeners;
use super::secure_listeners::SecureListeners;
use super::streams::Streams;
use super::token::Source;
use super::worker::{Worker, read_clocks};
use crate::turn::{FiveTuple, SavedFlow, Snapshot, Summary, Transport, WorkerIndex};

/// What a worker that stands still does next.
#[derive(Debug)]
pub enum Step {
    /// Send what it has for others, and handle what they have for it. It says how much that was.
    Settle(oneshot::Sender<usize>),
    /// Say all there is to know.
    Share(oneshot::Sender<io::Result<Frozen>>),
    /// Give it up: another process has it.
    Release,
}

/// What a worker that stands still has.
#[derive(Debug)]
pub struct Frozen {
    /// All there is to know.
    pub state: WorkerState,
    /// The relay sockets, in the order of the state.
    pub sockets: Vec<UdpSocket>,
}

/// A worker as data.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkerState {
    snapshot: Snapshot,
    /// In the order of the snapshot's allocations.
    relays: Vec<SavedRelay>,
    /// Clients that it passes on to other workers.
    owners: Vec<(SavedFlow, WorkerIndex, Duration)>,
    /// Relayed addresses of clients that stay behind.
    staying: Vec<SocketAddr>,
    /// Whether it goes on reading its DTLS sockets, for clients that stay behind.
    keeps_dtls: bool,
}

impl WorkerState {
    /// How many sockets go with it.
    #[must_use]
    pub fn socket_count(&self) -> usize {
        self.relays.len()
    }

    /// Relayed addresses that go on being ours although another process serves them.
    pub fn staying(&self) -> impl Iterator<Item = SocketAddr> {
        self.staying.iter().copied()
    }

    /// Whether its DTLS sockets come later.
    #[must_use]
    pub fn keeps_dtls(&self) -> bool {
        self.keeps_dtls
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct SavedRelay {
    pub(super) traffic: Traffic,
    /// What the kernel said last about datagrams that found no room.
    pub(super) lost: u32,
}

/// Whether another process can go on with this client: by UDP always, and else if its connection has ended and it may
/// come back for its allocation.
fn goes(flow: &FiveTuple, streams: &Streams, dtls: Option<&DtlsClients>, handover: &Handover) -> bool {
    let is_connected = match flow.transport {
        Transport::Udp => false,
        Transport::Tcp | Transport::Tls => streams.contains(flow),
        Transport::Dtls => dtls.is_some_and(|clients| clients.contains(flow)),
    };
    !is_connected && handover.carrier(flow).is_none()
}

impl<R: CryptoRng> Engine<R> {
    fn settle(&mut self) -> usize {
        self.now = read_clocks();
        self.take_answers();
        let mut handled = 0;
        loop {
            let more = self.handle_post() + self.handle_parcels();
            handled += more;
            if more == 0 {
                break;
            }
        }
        self.finish_turn();
        handled
    }

    fn share(&self) -> io::Result<Frozen> {
        let now = read_clocks().instant;
        let dtls = self.dtls.as_ref();
        let snapshot = self.server.snapshot(now, |flow| goes(flow, &self.streams, dtls, &self.handover));
        let gone: HashSet<_> = snapshot.ids().collect();
        let stays = |summary: &Summary| !gone.contains(&summary.id);
        let (mut relays, mut sockets) = (Vec::new(), Vec::new());
        for id in snapshot.ids() {
            let (saved, socket) = self.relays.share(id)?;
            relays.push(saved);
            sockets.push(socket);
        }
        let state = WorkerState {
            snapshot,
            relays,
            owners: self.handover.save_owners(now),
            staying: self.server.allocations().filter(stays).map(|summary| summary.relayed.0).collect(),
            keeps_dtls: dtls.is_some_and(|clients| !clients.is_empty()),
        };
        Ok(Frozen { state, sockets })
    }

    /// Forgets the clients that went.
    fn release(&mut self) {
        let Self { server, streams, dtls, handover, relays, .. } = self;
        for id in server.forget(|flow| goes(flow, streams, dtls.as_ref(), handover)) {
            relays.release(id);
        }
        handover.forget_owners_of_udp();
        self.act();
    }
}

impl<R: CryptoRng> Worker<R> {
    /// The listening sockets, which stay open here, too.
    pub(super) fn share_listeners(&self) -> io::Result<(Listeners, SecureListeners)> {
        let udp = self.engine.udp.iter().map(|listener| listener.socket.try_clone());
        let udp: Vec<_> = udp.collect::<io::Result<_>>()?;
        let mut tcp =
            self.tcp.iter().map(|listener| share(&listener.socket)).collect::<io::Result<Vec<_>>>()?;
        // Plain ones have the same addresses as UDP; behind them come those of TLS alone.
        let tls = tcp.split_off(udp.len().min(tcp.len()));
        let dtls = self.engine.dtls.as_ref().map(DtlsClients::share_sockets).transpose()?.unwrap_or_default();
        Ok((Listeners::taken_over(udp, tcp), SecureListeners::taken_over(tls, dtls)))
    }

    /// Stands still, but for these steps.
    pub(super) fn stand_still(&mut self, steps: &Receiver<Step>) {
        while let Ok(step) = steps.recv() {
            // Whoever asked and went away will not ask again, by which this ends.
            match step {
                Step::Settle(answer) => {
                    let _ = answer.send(self.engine.settle());
                }
                Step::Share(answer) => {
                    let _ = answer.send(self.engine.share());
                }
                Step::Release => return self.release(),
            }
        }
    }

    /// Serves DTLS at these sockets from now on.
    pub fn serve_dtls(&mut self, sockets: Vec<UdpSocket>) {
        let Some(clients) = &mut self.engine.dtls else { return };
        for socket in sockets {
            let Ok(address) = socket.local_addr() else { continue };
            let mut socket = mio::net::UdpSocket::from_std(socket);
            let token = Source::DtlsListener(clients.listener_count()).into();
            if self.poll.registry().register(&mut socket, token, Interest::READABLE).is_ok() {
                clients.add_listener(socket, address);
            }
        }
    }

    /// Takes over what another process had. Before `run`, and with nothing of its own yet.
    pub fn adopt(&mut self, state: WorkerState, sockets: Vec<UdpSocket>) -> io::Result<()> {
        // Whoever stays behind is the process's affair.
        let WorkerState { mut snapshot, relays, owners, staying: _, keeps_dtls: _ } = state;
        let engine = &mut self.engine;
        engine.now = read_clocks();
        let now = engine.now.instant;
        let ids: Vec<_> = snapshot.ids().collect();
        let mut sockets: HashMap<_, _> = ids.into_iter().zip(relays.into_iter().zip(sockets)).collect();
        let waiting = snapshot.take_waiting();
        for restored in engine.server.restore(now, snapshot).map_err(io::Error::other)? {
            let missing = || io::Error::new(io::ErrorKind::NotFound, "a relay without its socket");
            let (saved, socket) = sockets.remove(&restored.id).ok_or_else(missing)?;
            let meter = engine.relays.adopt(now, &restored, saved, socket)?;
            engine.server.handle_restored(restored.id, meter);
        }
        engine.handover.restore_owners(now, owners);
        engine.act();
        for (flow, message) in waiting {
            engine.handle_client_bytes(flow, &message);
        }
        Ok(())
    }

    /// Forgets what went. A socket that is open elsewhere must be taken out of the poll by name: closing it here does not.
    fn release(&mut self) {
        let registry = self.poll.registry();
        for listener in self.engine.udp.drain(..) {
            let _ = registry.deregister(&mut SourceFd(&listener.socket.as_raw_fd()));
        }
        for mut listener in self.tcp.drain(..) {
            let _ = registry.deregister(&mut listener.socket);
        }
        if let Some(clients) = self.engine.dtls.as_mut().filter(|clients| clients.is_empty()) {
            clients.release_listeners(registry);
        }
        self.engine.release();
    }
}

fn share(listener: &mio::net::TcpListener) -> io::Result<std::net::TcpListener> {
    Ok(listener.as_fd().try_clone_to_owned()?.into())
}
