//! Receiving and sending datagrams with what every system has: one call each.
//!
//! The seam another implementation fits into: fill a batch from a socket, look at each datagram, send from its own
//! buffer. There is room for a ChannelData header in front of every datagram, so that relaying copies nothing.

use std::io;
use std::net::SocketAddr;

use mio::net::UdpSocket;

use crate::stun::{channel_data, padded};

/// Whether a socket may have more for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Ask again before waiting.
    MaybeMore,
    /// Nothing left until the next event.
    Drained,
}

/// Datagrams of one visit to a socket.
#[derive(Debug)]
pub(super) struct Batch {
    slots: Vec<Datagram>,
    filled: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { slots: (0..BATCH).map(|_| Datagram::empty()).collect(), filled: 0 }
    }

    /// Takes what is there, up to a batch. An error is the network's word on an earlier datagram, not on the socket.
    pub(super) fn fill(&mut self, socket: &UdpSocket) -> Readiness {
        self.filled = 0;
        for slot in &mut self.slots {
            match slot.receive(socket) {
                Ok(()) => self.filled += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Readiness::Drained,
                Err(_) => return Readiness::MaybeMore,
            }
        }
        Readiness::MaybeMore
    }

    /// What was taken.
    pub(super) fn datagrams(&mut self) -> impl Iterator<Item = &mut Datagram> {
        self.slots.iter_mut().take(self.filled)
    }
}

/// One received datagram, with headroom.
#[derive(Debug)]
pub(super) struct Datagram {
    buffer: Box<[u8]>,
    length: usize,
    from: SocketAddr,
}

impl Datagram {
    fn empty() -> Self {
        let buffer = vec![0; HEADROOM + MAX_DATAGRAM].into_boxed_slice();
        Self { buffer, length: 0, from: SocketAddr::from(([0, 0, 0, 0], 0)) }
    }

    fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let room = self.buffer.get_mut(HEADROOM..).unwrap_or_default();
        (self.length, self.from) = socket.recv_from(room)?;
        Ok(())
    }

    pub(super) fn from(&self) -> SocketAddr {
        self.from
    }

    pub(super) fn data(&self) -> &[u8] {
        self.buffer.get(HEADROOM..HEADROOM + self.length).unwrap_or_default()
    }

    /// The data with a header in front.
    pub(super) fn with_header(&mut self, header: [u8; HEADROOM]) -> &[u8] {
        if let Some(room) = self.buffer.first_chunk_mut() {
            *room = header;
        }
        self.buffer.get(..HEADROOM + self.length).unwrap_or_default()
    }

    /// The data with a header in front and zeros behind, as streams want it.
    pub(super) fn with_padded_header(&mut self, header: [u8; HEADROOM]) -> &[u8] {
        let (end, padded_end) = (HEADROOM + self.length, HEADROOM + padded(self.length));
        if let Some(padding) = self.buffer.get_mut(end..padded_end) {
            padding.fill(0);
        }
        self.with_header(header);
        self.buffer.get(..padded_end).unwrap_or_default()
    }
}

/// Sends one datagram. What the kernel does not take at once is lost, as on any other hop.
pub(super) fn send(socket: &UdpSocket, to: SocketAddr, data: &[u8]) -> io::Result<()> {
    socket.send_to(data, to).map(|_| ())
}

const HEADROOM: usize = channel_data::HEADER_BYTES;
const MAX_DATAGRAM: usize = 65_536;
/// Enough to spare system calls later, few enough to be fair to other sockets.
const BATCH: usize = 32;
