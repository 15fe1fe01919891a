//! What is to be sent, gathered so that one call sends many.
//!
//! Datagrams keep their order. Those that follow each other from one socket to one destination, all of one size and
//! the last perhaps shorter, make a group, which the kernel takes as one (`UDP_SEGMENT`).

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::batch::Plane;
use super::{linux, portable};

/// Datagrams on their way out, by sockets known as `K`.
#[derive(Debug)]
pub struct Outbox<K> {
    plane: Plane,
    arena: Vec<u8>,
    groups: Vec<Group<K>>,
    headers: linux::SendHeaders,
    refusals: Refusals,
    max_segments: usize,
}

/// What a datagram is, apart from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<K> {
    /// The socket it goes out by.
    pub via: K,
    /// To whom.
    pub to: SocketAddr,
    /// Which of our addresses it comes from, if the socket serves several.
    pub from: Option<IpAddr>,
    /// What is counted once it is gone.
    pub purpose: Purpose,
}

/// Why a datagram is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody asked.
    Answer,
    /// Relayed data on its way to a client.
    ToClient,
    /// Relayed data on its way to a peer.
    ToPeer,
}

/// What became of one or more datagrams.
#[derive(Debug)]
pub struct Outcome {
    /// What they were.
    pub purpose: Purpose,
    /// How many.
    pub datagrams: usize,
    /// How much application data was in them.
    pub data_bytes: usize,
    /// Whether the kernel took them.
    pub sent: io::Result<()>,
}

/// Datagrams that go out together.
#[derive(Debug)]
pub(super) struct Group<K> {
    pub(super) via: K,
    pub(super) to: SocketAddr,
    pub(super) from: Option<IpAddr>,
    purpose: Purpose,
    begin: usize,
    pub(super) length: usize,
    /// Length of each datagram but the last, which may be shorter.
    pub(super) segment: usize,
    pub(super) count: usize,
    /// Bytes in front of the application data of each.
    overhead: usize,
}

impl<K: Copy + Eq> Outbox<K> {
    /// An empty one.
    #[must_use]
    pub fn new(plane: Plane) -> Self {
        Self {
            plane,
            arena: Vec::with_capacity(MAX_BYTES + MAX_GROUP_BYTES),
            groups: Vec::with_capacity(MAX_GROUPS),
            headers: linux::SendHeaders::new(MAX_GROUPS),
            refusals: Refusals::default(),
            max_segments: MAX_SEGMENTS,
        }
    }

    /// The same without groups.
    #[must_use]
    pub fn one_by_one(self) -> Self {
        Self { max_segments: 1, ..self }
    }

    /// Adds a datagram of `header` and `data`, of which the last `data_bytes` are the application's. Says whether it is
    /// time to flush.
    pub fn push(&mut self, envelope: Envelope<K>, header: &[u8], data: &[u8], data_bytes: usize) -> bool {
        let length = header.len() + data.len();
        let overhead = length.saturating_sub(data_bytes);
        let begin = self.arena.len();
        self.arena.extend_from_slice(header);
        self.arena.extend_from_slice(data);
        match self.groups.last_mut() {
            Some(last)
                if last.count < self.max_segments
                    && last.takes(&envelope, length, overhead)
                    && !self.refusals.contains(&envelope.to) =>
            {
                last.length += length;
                last.count += 1;
            }
            Some(_) | None => {
                let Envelope { via, to, from, purpose } = envelope;
                let group =
                    Group { via, to, from, purpose, begin, length, segment: length, count: 1, overhead };
                self.groups.push(group);
            }
        }
        self.groups.len() >= MAX_GROUPS || self.arena.len() >= MAX_BYTES
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether anything waits for this socket.
    #[must_use]
    pub fn has(&self, via: K) -> bool {
        self.groups.iter().any(|group| group.via == via)
    }

    /// Sends everything; `done` hears what became of it. What the kernel does not take at once is lost, as on any other hop.
    pub fn flush<'a>(&mut self, socket: impl Fn(K) -> Option<&'a UdpSocket>, mut done: impl FnMut(Outcome)) {
        let mut rest = self.groups.as_slice();
        while let Some(first) = rest.first() {
            let run = rest.iter().take_while(|group| group.via == first.via).count();
            let (now, later) = rest.split_at(run);
            rest = later;
            match (socket(first.via), self.plane) {
                (Some(socket), Plane::Batched) => {
                    self.headers.send(socket, now, &self.arena, &mut self.refusals, &mut done);
                }
                (Some(socket), Plane::Portable) => {
                    now.iter().for_each(|group| portable::send_each(socket, group, &self.arena, &mut done));
                }
                (None, _) => {
                    now.iter().for_each(|group| done(group.outcome(Err(io::ErrorKind::NotConnected.into()))));
                }
            }
        }
        self.groups.clear();
        self.arena.clear();
    }
}

impl<K> Group<K> {
    /// Whether another datagram can go with these.
    fn takes(&self, next: &Envelope<K>, length: usize, overhead: usize) -> bool
    where
        K: Eq,
    {
        self.via == next.via
            && self.to == next.to
            && self.from == next.from
            && self.purpose == next.purpose
            && self.overhead == overhead
            && (1..=self.segment).contains(&length)
            && self.segment <= MAX_SEGMENT
            && self.length == self.segment * self.count
            && self.length + length <= MAX_GROUP_BYTES
    }

    /// All its bytes.
    pub(super) fn bytes<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        arena.get(self.begin..self.begin + self.length).unwrap_or_default()
    }

    /// Each datagram.
    pub(super) fn datagrams<'a>(&self, arena: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, K> {
        let bytes = self.bytes(arena);
        bytes.chunks(self.segment.max(1)).chain(bytes.is_empty().then_some(bytes))
    }

    /// All of them at once.
    pub(super) fn outcome(&self, sent: io::Result<()>) -> Outcome {
        let data_bytes = self.length.saturating_sub(self.overhead * self.count);
        Outcome { purpose: self.purpose, datagrams: self.count, data_bytes, sent }
    }

    /// One of them, of this length.
    pub(super) fn outcome_of_one(&self, length: usize, sent: io::Result<()>) -> Outcome {
        let data_bytes = length.saturating_sub(self.overhead);
        Outcome { purpose: self.purpose, datagrams: 1, data_bytes, sent }
    }
}

/// Destinations whose path does not take groups: a small memory in which a new one may oust an old one, which then is
/// found out again.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    recent: Vec<SocketAddr>,
    next: usize,
}

impl Refusals {
    /// Whether this one is remembered.
    fn contains(&self, to: &SocketAddr) -> bool {
        !self.recent.is_empty() && self.recent.contains(to)
    }

    /// Remembers one.
    pub(super) fn insert(&mut self, to: SocketAddr) {
        if self.contains(&to) {
            return;
        }
        if self.recent.len() < MAX_REFUSALS {
            self.recent.push(to);
        } else if let Some(oldest) = self.recent.get_mut(self.next) {
            *oldest = to;
            self.next = (self.next + 1) % MAX_REFUSALS;
        }
    }
}

/// Groups of one flush: enough that the call itself costs little by the datagram.
const MAX_GROUPS: usize = 64;
/// What the caches hold beside the rest.
const MAX_BYTES: usize = 256 * 1024;
/// Of one group, headers of IP and UDP not counted.
const MAX_GROUP_BYTES: usize = 65_000;
/// `UDP_MAX_SEGMENTS` of every kernel that knows `UDP_SEGMENT`.
const MAX_SEGMENTS: usize = 64;
/// A longer datagram fits no path's MTU in one piece, and the kernel takes no groups of pieces.
const MAX_SEGMENT: usize = 1_472;
const MAX_REFUSALS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(to: u16) -> Envelope<u8> {
        let to = SocketAddr::from(([127, 0, 0, 1], to));
        Envelope { via: 0, to, from: None, purpose: Purpose::ToPeer }
    }

    fn counts(outbox: &Outbox<u8>) -> Vec<(usize, usize)> {
        outbox.groups.iter().map(|group| (group.segment, group.count)).collect()
    }

    #[test]
    fn a_burst_of_one_size_with_a_shorter_end_is_one_group() {
        let mut outbox = Outbox::new(Plane::Batched);
        for length in [10, 10, 10, 4, 10, 10, 11, 0, 10] {
            outbox.push(envelope(1), &[], &vec![1; length], length);
        }
        assert_eq!(counts(&outbox), [(10, 4), (10, 2), (11, 1), (0, 1), (10, 1)]);
    }

    #[test]
    fn another_destination_socket_or_purpose_is_another_group() {
        let mut outbox = Outbox::new(Plane::Batched);
        outbox.push(envelope(1), &[], b"x", 1);
        outbox.push(envelope(2), &[], b"x", 1);
        outbox.push(Envelope { via: 1, ..envelope(2) }, &[], b"x", 1);
        outbox.push(Envelope { via: 1, purpose: Purpose::Answer, ..envelope(2) }, &[], b"x", 1);
        outbox.push(Envelope { via: 1, purpose: Purpose::Answer, ..envelope(2) }, &[], b"x", 0);
        assert_eq!(counts(&outbox), [(1, 1); 5]);
    }

    #[test]
    fn groups_are_bounded_and_so_is_the_outbox() {
        let mut outbox = Outbox::new(Plane::Batched);
        let is_full: Vec<_> = (0..65).map(|_| outbox.push(envelope(1), b"h", b"xy", 2)).collect();
        assert_eq!(counts(&outbox), [(3, 64), (3, 1)]);
        assert!(is_full.iter().all(|is_full| !is_full));
        let full_at = (0..).position(|port| outbox.push(envelope(port), &[], b"x", 1));
        assert_eq!(outbox.groups.len(), MAX_GROUPS);
        assert_eq!(full_at, Some(MAX_GROUPS - 3));
    }

    #[test]
    fn a_destination_that_refused_a_group_gets_none_until_it_is_forgotten() {
        let mut outbox = Outbox::new(Plane::Batched);
        outbox.refusals.insert(envelope(1).to);
        for to in [1, 1, 2, 2] {
            outbox.push(envelope(to), &[], b"x", 1);
        }
        assert_eq!(counts(&outbox), [(1, 1), (1, 1), (1, 2)]);
        (2..=33).for_each(|to| outbox.refusals.insert(envelope(to).to));
        assert_eq!(outbox.refusals.recent.len(), MAX_REFUSALS);
        assert!(!outbox.refusals.contains(&envelope(1).to));
    }
}
