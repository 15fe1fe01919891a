//! Which local addresses to find candidates on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::vec;

/// The addresses to bind, looked up anew whenever sockets are bound, so that an ICE restart follows a change of network.
#[derive(Debug, Clone)]
pub(crate) enum BindAddresses {
    /// These and no others.
    Given(Vec<IpAddr>),
    /// Every interface, loopback included if the signaling server is there as well.
    Interfaces { loopback: bool },
}

impl ToSocketAddrs for BindAddresses {
    type Iter = vec::IntoIter<SocketAddr>;

    fn to_socket_addrs(&self) -> io::Result<Self::Iter> {
        let addresses = match self {
            Self::Given(addresses) => addresses.clone(),
            Self::Interfaces { loopback } => {
                let interfaces = if_addrs::get_if_addrs()?;
                select(interfaces.iter().map(if_addrs::Interface::ip), *loopback)
            }
        };
        let sockets: Vec<_> = addresses.into_iter().map(|address| SocketAddr::new(address, 0)).collect();
        Ok(sockets.into_iter())
    }
}

/// What of the machine's addresses another machine could reach, and loopback where it is wanted or all there is.
fn select(all: impl Iterator<Item = IpAddr>, loopback: bool) -> Vec<IpAddr> {
    let mut addresses: Vec<_> =
        all.filter(|address| !address.is_loopback() && !is_link_local(*address)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if loopback || addresses.is_empty() {
        addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    addresses
}

/// Of no meaning on another machine, or in a candidate, which cannot carry a scope.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_unspecified(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(all: &[&str], loopback: bool) -> Vec<String> {
        let all = all.iter().map(|address| address.parse().unwrap());
        select(all, loopback).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_address_that_others_can_reach_is_bound() {
        let all = ["127.0.0.1", "::1", "10.0.0.2", "fe80::1", "169.254.3.4", "2001:db8::2", "10.0.0.2"];
        assert_eq!(selected(&all, false), ["10.0.0.2", "2001:db8::2"]);
    }

    #[test]
    fn loopback_is_added_where_it_is_wanted_or_nothing_else_exists() {
        assert_eq!(selected(&["127.0.0.1", "10.0.0.2"], true), ["10.0.0.2", "127.0.0.1"]);
        assert_eq!(selected(&["127.0.0.1", "::1"], false), ["127.0.0.1"]);
    }
}
