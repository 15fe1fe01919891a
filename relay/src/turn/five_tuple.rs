//! The addresses of TURN, each its own type, since swapping two of them would compile otherwise.

use std::fmt;
use std::net::SocketAddr;

/// Where a client sends from, as this server sees it: the server-reflexive address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientAddr(pub SocketAddr);

/// Whom a client talks to through its allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerAddr(pub SocketAddr);

/// Where peers send to: the address of an allocation's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayedAddr(pub SocketAddr);

/// What carries messages between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams, whose source anybody can forge.
    Udp,
    /// A stream, whose source a handshake has proven.
    Tcp,
}

/// What a client and its allocation are known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiveTuple {
    /// The client's end.
    pub client: ClientAddr,
    /// Our end: the address a listener is bound to.
    pub server: SocketAddr,
    /// What is between them.
    pub transport: Transport,
}

macro_rules! display_as_inner {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

display_as_inner!(ClientAddr PeerAddr RelayedAddr);
