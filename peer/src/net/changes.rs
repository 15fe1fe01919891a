//! Notices when the machine's addresses are others than before: another network, a cable, a lease that ended.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep_until;

use super::BindAddresses;
use crate::clock;

/// Watches the addresses that candidates are found on.
#[derive(Debug)]
pub(crate) struct Changes {
    addresses: BindAddresses,
    known: Vec<SocketAddr>,
    /// Told by the kernel; without it, it is asked every so often.
    socket: Option<AsyncFd<OwnedFd>>,
    /// When to look, once changes have stopped coming.
    look_at: Option<Instant>,
}

/// How the addresses are others than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// There are more.
    More,
    /// Some are gone.
    Gone,
}

impl Changes {
    pub(crate) fn new(addresses: BindAddresses) -> Self {
        let known = look(&addresses);
        let socket = netlink()
            .inspect_err(|error| tracing::debug!(%error, "No netlink, so addresses are polled"))
            .ok();
        Self { addresses, known, socket, look_at: None }
    }

    /// Waits for the next change. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Change {
        loop {
            let look_at = match (self.look_at, &self.socket) {
                (Some(time), _) => Some(time),
                (None, None) => Some(*self.look_at.insert(clock::now() + POLL)),
                (None, Some(_)) => None,
            };
            tokio::select! {
                () = heard(self.socket.as_ref()) => self.look_at = Some(clock::now() + SETTLING),
                () = sleep_until(look_at.unwrap_or_else(clock::now).into()), if look_at.is_some() => {
                    self.look_at = None;
                    let now = look(&self.addresses);
                    let change = compare(&self.known, &now);
                    self.known = now;
                    if let Some(change) = change {
                        return change;
                    }
                }
            }
        }
    }
}

fn look(addresses: &BindAddresses) -> Vec<SocketAddr> {
    addresses.to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

fn compare(before: &[SocketAddr], now: &[SocketAddr]) -> Option<Change> {
    if before.iter().any(|address| !now.contains(address)) {
        Some(Change::Gone)
    } else if now.len() > before.len() {
        Some(Change::More)
    } else {
        None
    }
}

/// A socket on which the kernel tells of links and addresses. rtnetlink(7).
fn netlink() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol is NETLINK_ROUTE, whose number is zero.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, LINKS | IPV4_ADDRESSES | IPV6_ADDRESSES))?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe code; an owned descriptor keeps what that asks for"
    )]
    AsyncFd::new(socket)
}

/// Waits until something is told, and forgets what: the addresses themselves tell more.
async fn heard(socket: Option<&AsyncFd<OwnedFd>>) {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        // Only a runtime that ends says no.
        let Ok(mut ready) = socket.readable().await else { return std::future::pending().await };
        let mut told = false;
        let mut message = [0; 4096];
        // What overflowed was a change as well.
        while !matches!(
            recv(socket.get_ref(), &mut message, RecvFlags::empty()),
            Err(rustix::io::Errno::AGAIN)
        ) {
            told = true;
        }
        ready.clear_ready();
        if told {
            return;
        }
    }
}

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR.
const LINKS: u32 = 1;
const IPV4_ADDRESSES: u32 = 0x10;
const IPV6_ADDRESSES: u32 = 0x100;
/// An address comes and goes in steps.
const SETTLING: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_is_whether_addresses_are_gone() {
        let [one, two]: [SocketAddr; 2] =
            ["192.0.2.1:0", "192.0.2.2:0"].map(|address| address.parse().unwrap());
        assert_eq!(compare(&[one], &[one]), None);
        assert_eq!(compare(&[one], &[one, two]), Some(Change::More));
        assert_eq!(compare(&[one, two], &[two]), Some(Change::Gone));
        assert_eq!(compare(&[one], &[two]), Some(Change::Gone));
    }

    #[tokio::test]
    async fn the_kernel_is_heard_or_at_least_listened_to() {
        let socket = netlink().unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(10), heard(Some(&socket))).await;
        // Whether somebody changes an address just now is not up to us.
        drop(quiet);
    }
}
