//! What came by one visit to a socket: whole datagrams, with bursts of one sender kept together.
//!
//! `linux.rs` and `portable.rs` fill the same slots; nobody behind them can tell which one did.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use super::{linux, portable};
use crate::turn::IcmpError;

/// Which system calls carry datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// Many datagrams a call, and bursts as one: `recvmmsg`, `sendmmsg`, `UDP_GRO`, `UDP_SEGMENT`.
    Batched,
    /// One call each, as every system has them.
    Portable,
}

impl Plane {
    /// Sets a socket up to be read by a [`Batch`], and by nothing else: it may hand out several datagrams at once.
    pub fn prepare(self, socket: &UdpSocket) {
        match self {
            Self::Batched => linux::prepare_socket(socket),
            Self::Portable => {}
        }
    }

    /// Sets the socket of a relay up, about whose peers the network may have something to say.
    pub(super) fn prepare_relay(self, socket: &UdpSocket) {
        self.prepare(socket);
        match self {
            Self::Batched => linux::keep_errors(socket, true),
            Self::Portable => {}
        }
    }

    /// The same for one that another process has set up in its own way.
    pub(super) fn take_over_relay(self, socket: &UdpSocket) {
        match self {
            Self::Batched => self.prepare_relay(socket),
            Self::Portable => {
                linux::unprepare_socket(socket);
                linux::keep_errors(socket, false);
            }
        }
    }

    /// The next thing that the network has said about what a relay sent: an ICMP error, or what is none. `None` once there
    /// is nothing more.
    pub(super) fn next_error(self, socket: &UdpSocket) -> Option<Option<IcmpError>> {
        match self {
            Self::Batched => linux::next_error(socket),
            Self::Portable => None,
        }
    }
}

/// Whether a socket may have more for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Ask again before waiting.
    MaybeMore,
    /// Nothing left until the next event.
    Drained,
}

/// Buffers for what a socket has, filled again and again.
#[derive(Debug)]
pub struct Batch {
    plane: Plane,
    slots: Vec<Slot>,
    filled: usize,
    headers: linux::ReceiveHeaders,
}

/// One message as the kernel hands it out.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) buffer: Box<[u8]>,
    pub(super) length: usize,
    /// Length of each datagram in it but the last, which may be shorter; 0, it is one.
    pub(super) segment: usize,
    pub(super) from: SocketAddr,
    /// The address it was sent to, where the socket is asked to say so.
    pub(super) to: Option<IpAddr>,
    /// How many datagrams this socket has lost so far, if any.
    pub(super) lost: Option<u32>,
}

impl Batch {
    /// Room for this many messages at a visit.
    #[must_use]
    pub fn new(plane: Plane, messages: usize) -> Self {
        let slots = (0..messages).map(|_| Slot::empty()).collect();
        Self { plane, slots, filled: 0, headers: linux::ReceiveHeaders::new(messages) }
    }

    /// Takes what is there, `at_most` messages of it.
    pub fn fill(&mut self, socket: &UdpSocket, at_most: usize) -> Readiness {
        self.filled = 0;
        let at_most = at_most.min(self.slots.len());
        let slots = self.slots.get_mut(..at_most).unwrap_or_default();
        let received = match self.plane {
            Plane::Batched => self.headers.receive(socket, slots),
            Plane::Portable => portable::receive(socket, slots),
        };
        match received {
            Ok(count) => self.filled = count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Readiness::Drained,
            // The network's word on an earlier datagram, not on the socket.
            Err(_) => return Readiness::MaybeMore,
        }
        if self.filled < at_most { Readiness::Drained } else { Readiness::MaybeMore }
    }

    /// What was taken.
    pub fn arrivals(&self) -> impl Iterator<Item = Arrival<'_>> {
        self.slots.iter().take(self.filled).map(|slot| Arrival {
            from: slot.from,
            to: slot.to,
            bytes: slot.buffer.get(..slot.length).unwrap_or_default(),
            segment: if slot.segment == 0 { slot.length } else { slot.segment },
        })
    }

    /// How many datagrams the socket had lost for want of room when the last of these came.
    #[must_use]
    pub fn lost(&self) -> Option<u32> {
        self.slots.iter().take(self.filled).rev().find_map(|slot| slot.lost)
    }
}

/// One or more datagrams of one sender.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Who sent them.
    pub from: SocketAddr,
    /// Which of our addresses they came to, if the socket serves several.
    pub to: Option<IpAddr>,
    bytes: &'a [u8],
    segment: usize,
}

impl<'a> Arrival<'a> {
    /// Each of them, in order.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // An empty datagram is one, too, and has no chunks.
        let empty = self.bytes.is_empty().then_some(self.bytes);
        self.bytes.chunks(self.segment.max(1)).chain(empty)
    }
}

impl Slot {
    pub(super) fn empty() -> Self {
        let from = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let buffer = vec![0; MAX_MESSAGE].into_boxed_slice();
        Self { buffer, length: 0, segment: 0, from, to: None, lost: None }
    }
}

/// What the kernel puts together at most.
const MAX_MESSAGE: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrival_is_cut_where_its_sender_cut_it() {
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let cut = |bytes: &'static [u8], segment| -> Vec<&[u8]> {
            Arrival { from, to: None, bytes, segment }.datagrams().collect()
        };
        assert_eq!(cut(b"aabbc", 2), [&b"aa"[..], b"bb", b"c"]);
        assert_eq!(cut(b"abc", 3), [&b"abc"[..]]);
        assert_eq!(cut(b"", 0), [&b""[..]]);
    }
}
