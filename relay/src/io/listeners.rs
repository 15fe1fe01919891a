//! The listening sockets of all workers: the same addresses for each, shared through `SO_REUSEPORT`.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::linux;
use crate::turn::AddressPair;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({transport})")]
pub struct BindError {
    address: SocketAddr,
    transport: &'static str,
    source: io::Error,
}

/// How much the kernel keeps for a UDP socket: bursts are longer than a worker's turn. It may grant less, which shows as
/// drops and not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffers {
    /// `SO_RCVBUF`, in bytes.
    pub receive: usize,
    /// `SO_SNDBUF`, in bytes.
    pub send: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { receive: 4 << 20, send: 4 << 20 }
    }
}

impl Buffers {
    fn set_on(self, socket: &Socket) {
        let _ = socket.set_recv_buffer_size(self.receive);
        let _ = socket.set_send_buffer_size(self.send);
    }
}

impl BindError {
    fn is_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// What one worker listens on: UDP and TCP at each address.
#[derive(Debug)]
pub struct Listeners {
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
}

impl Listeners {
    /// Binds for this many workers. Port 0 becomes one port for UDP and TCP and all workers.
    ///
    /// For each alternate, the first address of its family gets one, and both of them with each other's port as well.
    pub fn bind(
        addresses: &[SocketAddr],
        alternates: &[SocketAddr],
        workers: usize,
        buffers: Buffers,
    ) -> Result<(Vec<Self>, Vec<AddressPair>), BindError> {
        let (first, pairs) = Self::bind_first(addresses, alternates, buffers)?;
        let bound: Vec<_> = first.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect();
        let more = (1..workers).map(|_| Self::bind_again(&bound, buffers)).collect::<Result<Vec<_>, _>>()?;
        Ok((std::iter::once(first).chain(more).collect(), pairs))
    }

    /// Those of another process.
    #[must_use]
    pub fn taken_over(udp: Vec<UdpSocket>, tcp: Vec<TcpListener>) -> Self {
        Self { udp, tcp }
    }

    /// By UDP.
    #[must_use]
    pub fn udp(&self) -> &[UdpSocket] {
        &self.udp
    }

    /// By TCP.
    #[must_use]
    pub fn tcp(&self) -> &[TcpListener] {
        &self.tcp
    }

    /// Where these listen.
    #[must_use]
    pub fn addresses(&self) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        (
            self.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect(),
            self.tcp.iter().filter_map(|socket| socket.local_addr().ok()).collect(),
        )
    }

    fn bind_first(
        addresses: &[SocketAddr],
        alternates: &[SocketAddr],
        buffers: Buffers,
    ) -> Result<(Self, Vec<AddressPair>), BindError> {
        let has_choice = addresses.iter().chain(alternates).any(|address| address.port() == 0);
        let mut attempts = 0;
        loop {
            match Self::try_bind_first(addresses, alternates, buffers) {
                // The system chose a port that is free at one address alone.
                Err(error) if has_choice && attempts < MAX_ATTEMPTS && error.is_taken() => attempts += 1,
                result => return result,
            }
        }
    }

    fn try_bind_first(
        addresses: &[SocketAddr],
        alternates: &[SocketAddr],
        buffers: Buffers,
    ) -> Result<(Self, Vec<AddressPair>), BindError> {
        let mut bound = Self { udp: Vec::new(), tcp: Vec::new() };
        let primaries =
            addresses.iter().map(|address| bound.add(*address, buffers)).collect::<Result<Vec<_>, _>>()?;
        let mut pairs = Vec::new();
        for alternate in alternates {
            let primary = primaries.iter().find(|primary| primary.is_ipv4() == alternate.is_ipv4());
            let Some(primary) = primary.copied() else { continue };
            let pair = AddressPair { primary, alternate: bound.add(*alternate, buffers)? };
            for mixed in pair.mixed() {
                bound.add(mixed, buffers)?;
            }
            pairs.push(pair);
        }
        Ok((bound, pairs))
    }

    /// One more address, and what it came to be.
    fn add(&mut self, address: SocketAddr, buffers: Buffers) -> Result<SocketAddr, BindError> {
        let (udp, tcp) = bind_pair(address, buffers)?;
        let bound = udp.local_addr().unwrap_or(address);
        self.udp.push(udp);
        self.tcp.push(tcp);
        Ok(bound)
    }

    fn bind_again(addresses: &[SocketAddr], buffers: Buffers) -> Result<Self, BindError> {
        let udp = addresses.iter().map(|address| bind_udp(*address, Sharing::Joins, buffers));
        let tcp = addresses.iter().map(|address| bind_tcp(*address, Sharing::Joins));
        Ok(Self { udp: udp.collect::<Result<_, _>>()?, tcp: tcp.collect::<Result<_, _>>()? })
    }
}

/// A UDP socket for relayed data, or an error that says whether another port may do.
pub(super) fn bind_relay(address: SocketAddr, buffers: Buffers) -> io::Result<UdpSocket> {
    let socket = new_socket(address, Type::DGRAM, Protocol::UDP)?;
    buffers.set_on(&socket);
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

/// The first socket of a port is bound alone, so that another server on it is noticed, and shares it from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    Opens,
    Joins,
}

fn bind_pair(address: SocketAddr, buffers: Buffers) -> Result<(UdpSocket, TcpListener), BindError> {
    let mut attempts = 0;
    loop {
        let udp = bind_udp(address, Sharing::Opens, buffers)?;
        let port = udp.local_addr().map_or_else(|_| address.port(), |bound| bound.port());
        match bind_tcp(SocketAddr::new(address.ip(), port), Sharing::Opens) {
            Ok(tcp) => return Ok((udp, tcp)),
            // The system chose a port that is free for UDP alone.
            Err(_) if address.port() == 0 && attempts < MAX_ATTEMPTS => attempts += 1,
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn bind_udp(
    address: SocketAddr,
    sharing: Sharing,
    buffers: Buffers,
) -> Result<UdpSocket, BindError> {
    let bind = || {
        let socket = new_socket(address, Type::DGRAM, Protocol::UDP)?;
        buffers.set_on(&socket);
        if address.ip().is_unspecified() {
            linux::tell_destination(&socket, address.is_ipv4());
        }
        bind_shared(&socket, address, sharing)?;
        Ok(socket.into())
    };
    bind().map_err(|source| BindError { address, transport: "UDP", source })
}

pub(super) fn bind_tcp(address: SocketAddr, sharing: Sharing) -> Result<TcpListener, BindError> {
    let bind = || {
        let socket = new_socket(address, Type::STREAM, Protocol::TCP)?;
        socket.set_reuse_address(true)?;
        bind_shared(&socket, address, sharing)?;
        socket.listen(TCP_BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|source| BindError { address, transport: "TCP", source })
}

fn bind_shared(socket: &Socket, address: SocketAddr, sharing: Sharing) -> io::Result<()> {
    match sharing {
        Sharing::Opens => {
            socket.bind(&SockAddr::from(address))?;
            socket.set_reuse_port(true)
        }
        Sharing::Joins => {
            socket.set_reuse_port(true)?;
            socket.bind(&SockAddr::from(address))
        }
    }
}

fn new_socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() {
        // IPv4 has its own sockets; mapped addresses would make two spellings of every client.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

const TCP_BACKLOG: i32 = 1024;
const MAX_ATTEMPTS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_workers_share_one_port_for_udp_and_tcp() {
        let (listeners, _) =
            Listeners::bind(&["127.0.0.1:0".parse().unwrap()], &[], 3, Buffers::default()).unwrap();
        let addresses: Vec<_> = listeners.iter().map(Listeners::addresses).collect();
        assert_eq!(addresses.len(), 3);
        assert!(
            addresses.iter().all(|each| *each == addresses[0] && each.0 == each.1 && each.0[0].port() != 0)
        );
    }

    #[test]
    fn a_port_that_another_server_shares_is_not_joined() {
        let address = "127.0.0.1:0".parse().unwrap();
        let (ours, _) = Listeners::bind(&[address], &[], 2, Buffers::default()).unwrap();
        let error = Listeners::bind(&ours[0].addresses().0, &[], 2, Buffers::default()).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    }
}
