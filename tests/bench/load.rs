//! What is put on a server: sessions, and datagrams of all of them at once, in a closed loop.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use farcall_relay::io::{Batch, Envelope, Outbox, Plane, Purpose};
use farcall_tests::clock;
use farcall_tests::relay::USER;
use farcall_tests::turn_client::TurnClient;

use crate::forwarder;
use crate::servers::Server;

/// When a round is given up and what is missing counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// Two sockets that talk through the server.
pub(crate) struct Session {
    pub(crate) near: End,
    pub(crate) far: End,
}

/// One of them: where it sends to, and what.
pub(crate) struct End {
    pub(crate) socket: UdpSocket,
    pub(crate) to: SocketAddr,
    pub(crate) message: Vec<u8>,
}

impl Session {
    /// A client with a channel to a peer.
    pub(crate) fn with_peer(server: &Server, bytes: usize) -> Result<Self> {
        let payload = vec![0x5a; bytes];
        let mut peer = bind()?;
        let frame = TurnClient::frame(&payload)?;
        let (relayed, socket) = if server.is_bare() {
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            client.connect(server.udp)?;
            client.set_read_timeout(Some(clock::PATIENCE))?;
            let relayed = forwarder::open(&client, peer.local_addr()?)?;
            (relayed, client)
        } else {
            let mut client = TurnClient::allocate(server.udp, USER)?;
            // A port that is another listener's of the server is refused, and the system may have chosen just that.
            while client.bind_channel(peer.local_addr()?).is_err() {
                peer = bind()?;
            }
            (client.relayed(), client.into_wire())
        };
        socket.set_nonblocking(true)?;
        Plane::Batched.prepare(&socket);
        let near = End { socket, to: server.udp, message: frame };
        Ok(Self { near, far: End { socket: peer, to: relayed, message: payload } })
    }

    /// Two clients with channels to each other.
    pub(crate) fn of_clients(server: &Server, bytes: usize) -> Result<Self> {
        let frame = TurnClient::frame(&vec![0x5a; bytes])?;
        let (mut near, mut far) =
            (TurnClient::allocate(server.udp, USER)?, TurnClient::allocate(server.udp, USER)?);
        near.bind_channel(far.relayed())?;
        far.bind_channel(near.relayed())?;
        let end = |client: TurnClient| {
            let socket = client.into_wire();
            Plane::Batched.prepare(&socket);
            End { socket, to: server.udp, message: frame.clone() }
        };
        Ok(Self { near: end(near), far: end(far) })
    }
}

fn bind() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((forwarder::PEERS, 0)).context("binding a peer")?;
    socket.set_nonblocking(true)?;
    Plane::Batched.prepare(&socket);
    Ok(socket)
}

/// Buffers of whoever makes the load.
pub(crate) struct Load {
    batch: Batch,
    outbox: Outbox<(usize, Side)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Near,
    Far,
}

impl Load {
    pub(crate) fn new() -> Self {
        Self { batch: Batch::new(Plane::Batched, 8), outbox: Outbox::new(Plane::Batched) }
    }

    /// `burst` datagrams of every session to the far end and back; returns how many of both arrived.
    pub(crate) fn round(&mut self, sessions: &[Session], burst: usize) -> u64 {
        for (index, session) in sessions.iter().enumerate() {
            self.send(sessions, index, Side::Near, &session.near, burst);
        }
        self.flush(sessions);
        let all = sessions.len() * burst;
        let (mut echoed, mut returned) = (0, 0);
        let started = clock::now();
        while returned < all && clock::now().duration_since(started) < LOST_AFTER {
            for (index, session) in sessions.iter().enumerate() {
                let count = self.receive(&session.far.socket);
                echoed += count;
                self.send(sessions, index, Side::Far, &session.far, count);
                if index % 64 == 63 {
                    self.flush(sessions);
                }
            }
            self.flush(sessions);
            for session in sessions {
                returned += self.receive(&session.near.socket);
            }
        }
        (echoed + returned) as u64
    }

    fn receive(&mut self, socket: &UdpSocket) -> usize {
        self.batch.fill(socket, 8);
        self.batch.arrivals().map(|arrival| arrival.datagrams().count()).sum()
    }

    fn send(&mut self, sessions: &[Session], index: usize, side: Side, end: &End, count: usize) {
        for _ in 0..count {
            let envelope = Envelope { via: (index, side), to: end.to, from: None, purpose: Purpose::ToPeer };
            if self.outbox.push(envelope, &[], &end.message, end.message.len()) {
                self.flush(sessions);
            }
        }
    }

    fn flush(&mut self, sessions: &[Session]) {
        let socket = |(index, side): (usize, Side)| {
            let session = sessions.get(index)?;
            Some(match side {
                Side::Near => &session.near.socket,
                Side::Far => &session.far.socket,
            })
        };
        self.outbox.flush(socket, drop);
    }
}
