//! The physical limit: a forwarder that strips and prepends four bytes and does nothing else.
//!
//! It has one socket for all clients and one for each session, as a TURN server must, and the relay's own system calls, but
//! no protocol, no permission, no expiry and no state machine. Whoever knows what it is does a session's handshake in one datagram.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, bail};
use farcall_relay::io::{Batch, Envelope, Outbox, Plane, Purpose};
use rustix::event::epoll;

/// How it receives and sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forwarding {
    /// A call for each datagram.
    Plain,
    /// `recvmmsg` and `sendmmsg`.
    Batched,
    /// These, with `UDP_GRO` alone.
    Gathered,
    /// These, with `UDP_SEGMENT` alone.
    Cut,
    /// These, with both.
    Segmented,
}

impl Forwarding {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Batched => "mmsg",
            Self::Gathered => "mmsg-GRO",
            Self::Cut => "mmsg-GSO",
            Self::Segmented => "GSO",
        }
    }

    /// From the command line.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        match [Self::Plain, Self::Batched, Self::Gathered, Self::Cut, Self::Segmented]
            .into_iter()
            .find(|kind| kind.name() == name)
        {
            Some(kind) => Ok(kind),
            None => bail!("no forwarder is called {name}"),
        }
    }
}

/// The word of this program that makes it a forwarder.
pub(crate) const WORD: &str = "forward";
/// Where peers are: ports enough, beside those of clients and relays.
pub(crate) const PEERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Opens a session; two bytes follow, the port of its peer.
const OPEN: u8 = 0xFF;
/// What a STUN Binding request begins with; it is answered with as many bytes as a server's answer has.
const BINDING: [u8; 2] = [0, 1];
const HEADER: [u8; 2] = [0x40, 0];

struct Session {
    socket: UdpSocket,
    client: SocketAddr,
    peer: SocketAddr,
}

/// Opens a session from `client`; says where peers send to.
pub(crate) fn open(client: &UdpSocket, peer: SocketAddr) -> Result<SocketAddr> {
    let [high, low] = peer.port().to_be_bytes();
    client.send(&[OPEN, high, low]).context("opening a session")?;
    let mut answer = [0; 16];
    client.recv(&mut answer).context("waiting for a session")?;
    let [high, low, ..] = answer;
    Ok((Ipv4Addr::LOCALHOST, u16::from_be_bytes([high, low])).into())
}

/// Forwards until it is killed.
pub(crate) fn run(kind: Forwarding) -> Result<()> {
    let plane = if kind == Forwarding::Plain { Plane::Portable } else { Plane::Batched };
    let bind = || -> Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("binding a socket")?;
        socket.set_nonblocking(true)?;
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, 4 << 20)?;
        if matches!(kind, Forwarding::Gathered | Forwarding::Segmented) {
            Plane::Batched.prepare(&socket);
        }
        Ok(socket)
    };
    let listener = bind()?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watch = |socket: &UdpSocket, index: usize| {
        epoll::add(&poll, socket, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)
    };
    watch(&listener, 0)?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", listener.local_addr()?)?;
    stdout.flush()?;

    let mut sessions: Vec<Session> = Vec::new();
    let mut by_port = vec![usize::MAX; 1 << 16];
    let (mut batch, mut outbox) = (Batch::new(plane, 32), Outbox::new(plane));
    if !matches!(kind, Forwarding::Cut | Forwarding::Segmented) {
        outbox = outbox.one_by_one();
    }
    let at_a_visit = if kind == Forwarding::Plain { 1 } else { 4 };
    let mut events = Vec::with_capacity(1024);
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let index = usize::try_from(event.data.u64())?;
            if index == 0 {
                batch.fill(&listener, 32);
                for arrival in batch.arrivals() {
                    let known = by_port.get(usize::from(arrival.from.port())).copied().unwrap_or(usize::MAX);
                    for datagram in arrival.datagrams() {
                        match (datagram, sessions.get(known)) {
                            ([OPEN, high, low], _) => {
                                let peer = (PEERS, u16::from_be_bytes([*high, *low])).into();
                                let socket = bind()?;
                                let port = socket.local_addr()?.port().to_be_bytes();
                                watch(&socket, sessions.len() + 1)?;
                                if let Some(slot) = by_port.get_mut(usize::from(arrival.from.port())) {
                                    *slot = sessions.len();
                                }
                                sessions.push(Session { socket, client: arrival.from, peer });
                                listener.send_to(&port, arrival.from)?;
                            }
                            ([high, low, rest @ ..], None) if [*high, *low] == BINDING => {
                                let mut answer = [0; 32];
                                answer.iter_mut().skip(2).zip(rest).for_each(|(to, from)| *to = *from);
                                outbox.push(envelope(0, arrival.from), &[], &answer, 0);
                            }
                            ([_, _, _, _, data @ ..], Some(session)) => {
                                outbox.push(envelope(known + 1, session.peer), &[], data, data.len());
                            }
                            _ => {}
                        }
                    }
                }
                flush(&mut outbox, &listener, &sessions);
            } else if let Some(session) = sessions.get(index - 1) {
                batch.fill(&session.socket, at_a_visit);
                let mut is_full = false;
                for datagram in batch.arrivals().flat_map(|arrival| arrival.datagrams()) {
                    let [high, low] = u16::try_from(datagram.len())?.to_be_bytes();
                    let header = [HEADER[0], HEADER[1], high, low];
                    is_full |= outbox.push(envelope(0, session.client), &header, datagram, datagram.len());
                }
                if is_full {
                    flush(&mut outbox, &listener, &sessions);
                }
            }
        }
        flush(&mut outbox, &listener, &sessions);
    }
}

fn envelope(via: usize, to: SocketAddr) -> Envelope<usize> {
    Envelope { via, to, from: None, purpose: Purpose::ToPeer }
}

fn flush(outbox: &mut Outbox<usize>, listener: &UdpSocket, sessions: &[Session]) {
    let socket = |via: usize| match via.checked_sub(1) {
        None => Some(listener),
        Some(session) => sessions.get(session).map(|session| &session.socket),
    };
    outbox.flush(socket, drop);
}
