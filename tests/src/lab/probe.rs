//! Finds out what a translator really does, before anything is proved across it: an RFC 5780 client.
//!
//! It knows nothing of the relay's code, so that the two can be held against each other. Where no answer is the answer,
//! a later question to the same server is asked and answered before silence is believed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::nat::Dependence;
use crate::clock::Deadline;
use crate::host::Host;

/// Where to ask: two addresses with two ports each, one server behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StunServer {
    /// The address to begin with.
    pub first: IpAddr,
    /// The other.
    pub second: IpAddr,
    /// The port to begin with, at both.
    pub port: u16,
    /// The other.
    pub alternate_port: u16,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No UDP gets through.
    NoUdp,
    /// The address is one's own, and whoever wants may send to it.
    Open,
    /// The address is one's own, with a firewall.
    Firewalled(Dependence),
    /// A translator.
    Translated {
        /// How it maps.
        mapping: Dependence,
        /// How it filters.
        filtering: Dependence,
    },
}

/// Asks from `host`.
pub fn probe(host: &Host, server: StunServer) -> Result<Verdict> {
    host.within(|| ask(host.ip, server))
}

/// Whether two sockets of `host` reach each other by their outer addresses. RFC 4787, section 6.
pub fn hairpins(host: &Host, server: StunServer) -> Result<bool> {
    host.within(|| {
        let server = SocketAddr::new(server.first, server.port);
        let (mut one, mut other) = (Asker::bind(host.ip)?, Asker::bind(host.ip)?);
        let no_udp = "no UDP gets through";
        let outer = one.mapped(server)?.context(no_udp)?;
        let other_outer = other.mapped(server)?.context(no_udp)?;
        for wait in RETRANSMISSIONS {
            // Each opens the filter for the other, as far as it can; the second round finds both open.
            let question = one.next_id();
            let opening = other.next_id();
            other.send(opening, NOTHING, outer)?;
            one.send(question, NOTHING, other_outer)?;
            if other.is_asked(question, Deadline::after(wait))? {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// The port of a socket of `host` and its outer one; the socket gets this port, if it is not 0.
pub fn ports(host: &Host, port: u16, server: StunServer) -> Result<(u16, u16)> {
    host.within(|| {
        let mut asker = Asker::bind_to(SocketAddr::new(host.ip, port))?;
        let outer =
            asker.mapped(SocketAddr::new(server.first, server.port))?.context("no UDP gets through")?;
        Ok((asker.socket.local_addr()?.port(), outer.port()))
    })
}

/// Whether a socket of `host` that is idle for `time` is then seen under another port.
pub fn forgets_within(time: Duration, host: &Host, server: StunServer) -> Result<bool> {
    host.within(|| {
        let mut asker = Asker::bind(host.ip)?;
        let server = SocketAddr::new(server.first, server.port);
        let before = asker.mapped(server)?.context("no UDP gets through")?;
        // Nobody was asked anything: no answer comes.
        ensure!(asker.answer(&[], Deadline::after(time))?.is_none(), "an answer to no question");
        Ok(asker.mapped(server)?.context("a server that answered once and then no more")? != before)
    })
}

/// Asks from where this thread is.
fn ask(own: IpAddr, server: StunServer) -> Result<Verdict> {
    let StunServer { first, second, port, alternate_port } = server;
    let mut mapper = Asker::bind(own)?;
    let Some(mapped) = mapper.mapped(SocketAddr::new(first, port))? else { return Ok(Verdict::NoUdp) };
    let required = "a server that answered once and then no more";
    let other_port = mapper.mapped(SocketAddr::new(first, alternate_port))?.context(required)?;
    let other_address = mapper.mapped(SocketAddr::new(second, port))?.context(required)?;
    let mapping = if mapped != other_port {
        Dependence::AddressAndPortDependent
    } else if mapped != other_address {
        Dependence::AddressDependent
    } else {
        Dependence::EndpointIndependent
    };

    let filtering = if Asker::bind(own)?.is_answered_from_elsewhere(server, CHANGE_ADDRESS_AND_PORT)? {
        Dependence::EndpointIndependent
    } else if Asker::bind(own)?.is_answered_from_elsewhere(server, CHANGE_PORT)? {
        Dependence::AddressDependent
    } else {
        Dependence::AddressAndPortDependent
    };

    if mapped != mapper.socket.local_addr()? {
        return Ok(Verdict::Translated { mapping, filtering });
    }
    Ok(match filtering {
        Dependence::EndpointIndependent => Verdict::Open,
        Dependence::AddressDependent | Dependence::AddressAndPortDependent => Verdict::Firewalled(filtering),
    })
}

/// A socket with questions.
struct Asker {
    socket: UdpSocket,
    asked: u8,
}

type TransactionId = [u8; 12];

impl Asker {
    fn bind(own: IpAddr) -> Result<Self> {
        Self::bind_to(SocketAddr::new(own, 0))
    }

    fn bind_to(own: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind(own).with_context(|| format!("binding {own}"))?;
        Ok(Self { socket, asked: 0 })
    }

    /// How the server sees this socket; nothing, if no answer comes at all.
    fn mapped(&mut self, server: SocketAddr) -> Result<Option<SocketAddr>> {
        let id = self.next_id();
        for wait in RETRANSMISSIONS {
            self.send(id, NOTHING, server)?;
            if let Some(answer) = self.answer(&[id], Deadline::after(wait))? {
                return Ok(Some(answer.mapped));
            }
        }
        Ok(None)
    }

    /// Whether an answer from another place than the one that was asked gets in.
    fn is_answered_from_elsewhere(&mut self, server: StunServer, change: u32) -> Result<bool> {
        let asked = SocketAddr::new(server.first, server.port);
        for wait in RETRANSMISSIONS {
            let (elsewhere, here) = (self.next_id(), self.next_id());
            self.send(elsewhere, change, asked)?;
            self.send(here, NOTHING, asked)?;
            let answer = match self.answer(&[elsewhere, here], Deadline::after(wait))? {
                // Both questions or their answers were lost.
                None => continue,
                // The server has seen the question before this one: its answer is under way, or will never come.
                Some(answer) if answer.id == here => self.answer(&[elsewhere], Deadline::after(GRACE))?,
                answer => answer,
            };
            let Some(answer) = answer else { return Ok(false) };
            ensure!(answer.from != asked, "{asked} answered for itself although it was asked not to");
            return Ok(true);
        }
        bail!("the STUN server {asked} stopped answering")
    }

    fn next_id(&mut self) -> TransactionId {
        let mut id: TransactionId = rand::random();
        id[0] = self.asked;
        self.asked = self.asked.wrapping_add(1);
        id
    }

    fn send(&self, id: TransactionId, change: u32, server: SocketAddr) -> Result<()> {
        let mut request = Vec::with_capacity(28);
        request.extend_from_slice(&BINDING_REQUEST.to_be_bytes());
        request.extend_from_slice(&(if change == NOTHING { 0_u16 } else { 8 }).to_be_bytes());
        request.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        request.extend_from_slice(&id);
        if change != NOTHING {
            request.extend_from_slice(&CHANGE_REQUEST.to_be_bytes());
            request.extend_from_slice(&4_u16.to_be_bytes());
            request.extend_from_slice(&change.to_be_bytes());
        }
        match self.socket.send_to(&request, server) {
            // A firewall says no at once; that is an answer of its own.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
            sent => sent.map(drop).with_context(|| format!("asking {server}")),
        }
    }

    /// The first answer to any of these questions; others are forgotten.
    fn answer(&self, questions: &[TransactionId], deadline: Deadline) -> Result<Option<Answer>> {
        let answered = self.first(deadline, |message, from| {
            let asked = questions.iter().find(|id| message.get(8..20) == Some(id.as_slice()));
            asked.map(|&id| anyhow::Ok(Answer { id, from, mapped: read_answer(message, id)? }))
        })?;
        answered.transpose()
    }

    /// Whether this very question of another socket comes in.
    fn is_asked(&self, id: TransactionId, deadline: Deadline) -> Result<bool> {
        let asked = self.first(deadline, |message, _| {
            (message.get(..2) == Some(&BINDING_REQUEST.to_be_bytes()) && message.get(8..20) == Some(&id))
                .then_some(())
        })?;
        Ok(asked.is_some())
    }

    /// The first message that `pick` makes something of.
    fn first<T>(
        &self,
        deadline: Deadline,
        pick: impl Fn(&[u8], SocketAddr) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut buffer = [0; 1500];
        while !deadline.passed() {
            self.socket.set_read_timeout(Some(deadline.left().max(Duration::from_millis(1))))?;
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    if let Some(picked) = pick(buffer.get(..length).unwrap_or_default(), from) {
                        return Ok(Some(picked));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(error) if is_timeout(&error) => return Ok(None),
                Err(error) => return Err(error).context("waiting for an answer"),
            }
        }
        Ok(None)
    }
}

struct Answer {
    id: TransactionId,
    from: SocketAddr,
    mapped: SocketAddr,
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn read_answer(message: &[u8], id: TransactionId) -> Result<SocketAddr> {
    let number =
        |at: usize| -> Option<u16> { Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?)) };
    ensure!(number(0) == Some(BINDING_SUCCESS), "the answer is of type {:?}", number(0));
    let mut at = 20;
    while let (Some(kind), Some(length)) = (number(at), number(at + 2)) {
        let value =
            message.get(at + 4..at + 4 + usize::from(length)).context("an attribute that is cut off")?;
        if kind == XOR_MAPPED_ADDRESS {
            return read_xor_address(value, id).context("an address that is none");
        }
        at += 4 + usize::from(length).next_multiple_of(4);
    }
    bail!("the answer has no XOR-MAPPED-ADDRESS")
}

fn read_xor_address(value: &[u8], id: TransactionId) -> Option<SocketAddr> {
    let mut mask = [0; 16];
    mask.get_mut(..4)?.copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask.get_mut(4..)?.copy_from_slice(&id);
    let port = u16::from_be_bytes([value.get(2)? ^ mask[0], value.get(3)? ^ mask[1]]);
    let plain = value.get(4..)?.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect::<Vec<_>>();
    let ip = match value.get(1)? {
        1 => Ipv4Addr::from(<[u8; 4]>::try_from(plain).ok()?).into(),
        2 => Ipv6Addr::from(<[u8; 16]>::try_from(plain).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoUdp => f.write_str("no UDP gets through"),
            Self::Open => f.write_str("no translator and no firewall"),
            Self::Firewalled(filtering) => write!(f, "no translator, {filtering} filtering"),
            Self::Translated { mapping, filtering } => {
                write!(f, "{mapping} mapping, {filtering} filtering")
            }
        }
    }
}

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const MAGIC_COOKIE: u32 = 0x2112_a442;
const CHANGE_REQUEST: u16 = 0x0003;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// RFC 5780, section 7.2.
const CHANGE_ADDRESS_AND_PORT: u32 = 0x6;
const CHANGE_PORT: u32 = 0x2;
const NOTHING: u32 = 0;
/// The last wait is for a machine that is busy with other things; only those behind a firewall sit it out.
const RETRANSMISSIONS: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];
/// What an answer may come later than the answer to a later question.
const GRACE: Duration = Duration::from_millis(150);
