//! `nat`: how the network that this machine is in treats UDP, in words. RFC 5780, sections 4.3 and 4.4.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::cli::{self, Common};
use crate::failure::{Failure, Reason};
use crate::net::binding::{self, Answer};
use crate::report::{Event, NatBehaviour, Reporter};

/// Asks the server, and tells what follows from its answers.
pub async fn run(common: &Common, nat: &cli::Nat, reporter: &Reporter) -> Result<(), Failure> {
    let server = resolve(&nat.stun).await?;
    let bind = common.bind.iter().find(|ip| ip.is_ipv4() == server.is_ipv4());
    let any = if server.is_ipv4() { [0, 0, 0, 0].into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let local = SocketAddr::new(bind.copied().unwrap_or(any), 0);
    let mut event = explore(server, local).await?;
    event.words = words(&event);
    reporter.event(&Event::Nat(Box::new(event)));
    Ok(())
}

async fn resolve(uri: &str) -> Result<SocketAddr, Failure> {
    let bad = |why: String| Failure::new(Reason::BadUsage, format!("{uri}: {why}"));
    let host = uri.strip_prefix("stun:").unwrap_or(uri);
    // A port is what follows the last colon, unless that is inside an IPv6 address.
    let has_port =
        host.rsplit_once(':').is_some_and(|(before, _)| !before.contains(':') || before.ends_with(']'));
    let host = if has_port { host.to_owned() } else { format!("{host}:{DEFAULT_PORT}") };
    let mut addresses = tokio::net::lookup_host(host).await.map_err(|error| bad(error.to_string()))?;
    addresses.next().ok_or_else(|| bad("it has no address".to_owned()))
}

async fn explore(server: SocketAddr, local: SocketAddr) -> Result<NatBehaviour, Failure> {
    let internal = |error: std::io::Error| Failure::new(Reason::Internal, error.to_string());
    let socket = UdpSocket::bind(local).await.map_err(internal)?;
    let Some(first) = ask(&socket, server, binding::NOTHING).await else {
        let message = format!("{server} does not answer: UDP is blocked, or no STUN server is there");
        return Err(Failure::new(Reason::Unreachable, message));
    };
    let own = own_address(server, &socket).await.map_err(internal)?;
    let mut behaviour = NatBehaviour {
        server: server.to_string(),
        local: own.to_string(),
        mapped: first.mapped.to_string(),
        translated: first.mapped != own,
        mapping: None,
        filtering: None,
        words: String::new(),
    };
    let Some(other) = first.other else { return Ok(behaviour) };
    // Mapping: the same socket towards another address, and then another port of it.
    let second = ask(&socket, SocketAddr::new(other.ip(), server.port()), binding::NOTHING).await;
    behaviour.mapping = match second {
        Some(second) if second.mapped == first.mapped => Some("endpoint-independent"),
        Some(second) => ask(&socket, other, binding::NOTHING).await.map(|third| {
            if third.mapped == second.mapped { "address-dependent" } else { "address-and-port-dependent" }
        }),
        None => None,
    }
    .map(str::to_owned);
    // Filtering: a socket that has spoken to nobody but the first address.
    let socket = UdpSocket::bind(local).await.map_err(internal)?;
    if ask(&socket, server, binding::NOTHING).await.is_some() {
        behaviour.filtering = Some(
            if ask(&socket, server, binding::OTHER_ADDRESS_AND_PORT).await.is_some() {
                "endpoint-independent"
            } else if ask(&socket, server, binding::OTHER_PORT).await.is_some() {
                "address-dependent"
            } else {
                "address-and-port-dependent"
            }
            .to_owned(),
        );
    }
    Ok(behaviour)
}

/// The address from which the server is reached, with this socket's port.
async fn own_address(server: SocketAddr, socket: &UdpSocket) -> std::io::Result<SocketAddr> {
    let bound = socket.local_addr()?;
    if !bound.ip().is_unspecified() {
        return Ok(bound);
    }
    let probe = UdpSocket::bind(SocketAddr::new(bound.ip(), 0)).await?;
    probe.connect(server).await?;
    Ok(SocketAddr::new(probe.local_addr()?.ip(), bound.port()))
}

/// Asks up to three times; nobody answers what was filtered out.
async fn ask(socket: &UdpSocket, server: SocketAddr, change: u32) -> Option<Answer> {
    let transaction: [u8; 12] = rand::random();
    let request = binding::request(transaction, change);
    let mut buffer = [0; 1500];
    for _ in 0..ATTEMPTS {
        socket.send_to(&request, server).await.ok()?;
        let answered = async {
            loop {
                let (length, _) = socket.recv_from(&mut buffer).await.ok()?;
                if let Some(answer) = binding::answer(buffer.get(..length)?, transaction) {
                    return Some(answer);
                }
            }
        };
        if let Ok(answer) = timeout(PATIENCE, answered).await {
            return answer;
        }
    }
    None
}

/// What it means for calls.
fn words(behaviour: &NatBehaviour) -> String {
    let NatBehaviour { mapped, translated, mapping, filtering, .. } = behaviour;
    if !translated {
        return match filtering.as_deref() {
            None | Some("endpoint-independent") => {
                format!("No address translation: others see {mapped}, your own address. Direct paths work.")
            }
            Some(_) => format!(
                "No address translation: others see {mapped}, your own address, but a firewall lets in only answers. \
                 Direct paths work with the help of STUN."
            ),
        };
    }
    match mapping.as_deref() {
        None => format!(
            "Behind a translator: others see you as {mapped}. The server has no second address, so nothing more can be told."
        ),
        Some("endpoint-independent") => format!(
            "Behind a translator that keeps one address for you, {mapped}, whomever you talk to. Direct paths work with \
             almost everybody."
        ),
        Some(_) => format!(
            "Behind a symmetric translator: everybody sees another port of yours, this server {mapped}. Direct paths work \
             with those who have no translator or a lenient one; a relay is needed for the others."
        ),
    }
}

const DEFAULT_PORT: u16 = 3478;
const ATTEMPTS: usize = 3;
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_words() {
        let of = |translated: bool, mapping: Option<&str>| {
            words(&NatBehaviour {
                server: String::new(),
                local: String::new(),
                mapped: "192.0.2.1:5".to_owned(),
                translated,
                mapping: mapping.map(str::to_owned),
                filtering: Some("address-dependent".to_owned()),
                words: String::new(),
            })
        };
        assert!(of(false, None).contains("firewall"));
        assert!(of(true, None).contains("no second address"));
        assert!(of(true, Some("endpoint-independent")).contains("keeps one address"));
        assert!(of(true, Some("address-dependent")).contains("symmetric"));
    }
}
