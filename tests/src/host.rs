//! Where a program runs: an address to bind, and what to put before its command line to get there.
//!
//! Scenarios ask for hosts and never write an address. On this machine a host is a loopback address; in a network
//! lab it is a namespace, entered by the command in `enter`.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};

/// A place with an address of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// What programs here bind, and under which the others reach them.
    pub ip: IpAddr,
    /// The command that runs another command in this place; empty on this machine.
    pub enter: Vec<OsString>,
}

impl Host {
    /// This machine, over loopback.
    #[must_use]
    pub const fn local() -> Self {
        Self { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), enter: Vec::new() }
    }

    /// This machine under another loopback address. A program that must come back on the port it had lives here
    /// alone, so that nobody else is given that port meanwhile.
    #[must_use]
    pub const fn local_alone(last_octet: u8) -> Self {
        Self { ip: IpAddr::V4(Ipv4Addr::new(127, 0, 1, last_octet)), enter: Vec::new() }
    }

    /// This host's address with a port that the kernel picks.
    #[must_use]
    pub fn any_port(&self) -> String {
        std::net::SocketAddr::new(self.ip, 0).to_string()
    }
}
