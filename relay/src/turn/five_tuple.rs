//! The addresses of TURN, each its own type, since swapping two of them would compile otherwise.

use std::fmt;
use std::net::SocketAddr;

use crate::auth::Ends;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Transport {
    /// Datagrams, whose source anybody can forge.
    Udp,
    /// A stream, whose source a handshake has proven.
    Tcp,
    /// A stream inside TLS.
    Tls,
    /// Datagrams inside DTLS, whose source a cookie has proven.
    Dtls,
}

impl Transport {
    /// Whether messages follow one another in a stream, which wants ChannelData padded.
    #[must_use]
    pub fn is_stream(self) -> bool {
        match self {
            Self::Udp | Self::Dtls => false,
            Self::Tcp | Self::Tls => true,
        }
    }

    /// Whether the client is where it says it is.
    #[must_use]
    pub fn has_proven_source(self) -> bool {
        match self {
            Self::Udp => false,
            Self::Tcp | Self::Tls | Self::Dtls => true,
        }
    }
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

impl FiveTuple {
    /// What authentication goes by.
    #[must_use]
    pub const fn ends(&self) -> Ends {
        Ends { client: self.client.0, server: self.server }
    }
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
