//! Where a program runs: an address to bind, and what to put before its command line to get there.
//!
//! Scenarios ask for hosts and never write an address. On this machine a host is a loopback address; in a network
//! lab it is a namespace, entered by the command in `enter`.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use crate::lab::Namespace;

/// A place with an address of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// What programs here bind, and under which the others reach them.
    pub ip: IpAddr,
    /// The command that runs another command in this place; empty on this machine.
    pub enter: Vec<OsString>,
    /// The network it is in, if that is not the machine's.
    pub network: Option<Namespace>,
}

impl Host {
    /// This machine, over loopback.
    #[must_use]
    pub const fn local() -> Self {
        Self { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), enter: Vec::new(), network: None }
    }

    /// This machine under another loopback address. A program that must come back on the port it had lives here
    /// alone, so that nobody else is given that port meanwhile.
    #[must_use]
    pub const fn local_alone(last_octet: u8) -> Self {
        Self { ip: IpAddr::V4(Ipv4Addr::new(127, 0, 1, last_octet)), enter: Vec::new(), network: None }
    }

    /// A place in a network of its own.
    #[must_use]
    pub fn inside(network: Namespace, ip: IpAddr) -> Self {
        Self { ip, enter: network.enter(), network: Some(network) }
    }

    /// Does `work` in this host's network: the sockets that it makes stay there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.network {
            Some(network) => network.within(work),
            None => work(),
        }
    }

    /// This host's address with a port that the kernel picks.
    #[must_use]
    pub fn any_port(&self) -> String {
        std::net::SocketAddr::new(self.ip, 0).to_string()
    }
}
