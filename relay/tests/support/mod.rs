//! A relay process, and clients and peers to try it with. Everything waits for an event, with a deadline.

mod certificate;
mod client;
mod process;

pub(crate) use certificate::Certificate;
pub(crate) use client::{Answer, Attributes, Client, udp, udp_and};
pub(crate) use process::{Relay, coturn_tool, until};

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

/// Long enough for a loaded machine; nothing waits this long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A socket on loopback that gives up at the deadline.
pub(crate) fn udp_socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Whether IPv6 can be tried here; if not, it is said.
pub(crate) fn has_ipv6() -> bool {
    let interfaces = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let has_loopback = interfaces.lines().any(|line| line.ends_with(" lo"));
    if !has_loopback {
        eprintln!("NOT RUN: this machine has no IPv6 loopback");
    }
    has_loopback
}

/// A peer that sends back whatever it gets, for as long as the test runs.
pub(crate) fn echo_peer() -> SocketAddr {
    echo_peer_at("127.0.0.1")
}

/// The same, at this address.
pub(crate) fn echo_peer_at(ip: &str) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    address
}
