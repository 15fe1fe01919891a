//! What the world calls this machine: asked of STUN servers, and whether it can be true.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::{RngExt, rng};
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::{interval, timeout};
use tracing::{debug, info, warn};

use crate::stun::{AttributeType, Class, Message, MessageWriter, Method, TransactionId};

/// Why nobody said where we are.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// Servers were asked, none answered.
    #[error("none of the STUN servers {0:?} answered for {1}")]
    Silence(Vec<String>, IpAddr),
}

/// What the world calls `from`, by the first server that says so.
pub async fn ask(servers: &[String], from: IpAddr) -> Result<IpAddr, Unknown> {
    for server in servers {
        match ask_one(server, from).await {
            Ok(ip) => return Ok(ip),
            Err(error) => debug!(server, %error, "STUN server does not say where we are"),
        }
    }
    Err(Unknown::Silence(servers.to_vec(), from))
}

/// Asks again and again, and says loudly if the answer is another: clients are then sent to the wrong place.
pub async fn watch(servers: Vec<String>, known: Vec<(IpAddr, IpAddr)>) {
    let mut again = interval(RECHECK_INTERVAL);
    again.tick().await;
    loop {
        again.tick().await;
        for (relay_ip, external_ip) in &known {
            match ask(&servers, *relay_ip).await {
                Ok(now) if now == *external_ip => {}
                Ok(now) => {
                    warn!(was = %external_ip, %now, "The external address has changed: restart to advertise it")
                }
                Err(error) => warn!(%error, "The external address could not be checked"),
            }
        }
    }
}

/// Whether the world cannot reach this address, whatever a client is told.
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || a == 100 && b >> 6 == 1
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

async fn ask_one(server: &str, from: IpAddr) -> io::Result<IpAddr> {
    let is_v4 = from.is_ipv4();
    let found = timeout(LOOKUP_TIMEOUT, lookup_host(server)).await??;
    let server = found.into_iter().find(|address| address.is_ipv4() == is_v4);
    let server =
        server.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address of that family"))?;
    let socket = UdpSocket::bind(SocketAddr::new(from, 0)).await?;
    socket.connect(server).await?;
    let transaction_id = TransactionId(rng().random());
    let mut request = Vec::new();
    MessageWriter::new(&mut request, Class::Request, Method::BINDING, transaction_id)
        .finish()
        .map_err(io::Error::other)?;
    let mut buffer = [0; 1500];
    for _ in 0..ATTEMPTS {
        socket.send(&request).await?;
        let Ok(received) = timeout(ANSWER_TIMEOUT, socket.recv(&mut buffer)).await else { continue };
        let answer = buffer.get(..received?).and_then(|bytes| Message::parse(bytes).ok());
        let answer = answer
            .filter(|answer| answer.class() == Class::Success && answer.transaction_id() == transaction_id);
        if let Some(address) =
            answer.and_then(|answer| answer.find_xor_address(AttributeType::XOR_MAPPED_ADDRESS))
        {
            info!(%server, external = %address.ip(), "A STUN server said where we are");
            return Ok(address.ip());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

const ATTEMPTS: usize = 3;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
const RECHECK_INTERVAL: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known() {
        for private in [
            "10.1.2.3",
            "192.168.0.1",
            "172.31.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "fd00::1",
            "fe80::1",
            "::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:4860::1"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }
}
