//! What is forwarded to where, and what may be: as it is written on the command line.

use std::fmt;
use std::str::FromStr;

/// The transport of what is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// An address to connect to or to listen at: `[udp:]HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) network: Network,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// `[udp:][BIND:]PORT:HOST:HOSTPORT`, as ssh has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub(crate) listen: Target,
    pub(crate) target: Target,
}

/// What the other side may reach: `[udp:]HOST:PORT`, either of which may be `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    network: Network,
    /// None for any.
    host: Option<String>,
    port: Option<u16>,
}

impl Rule {
    pub(crate) fn covers(&self, target: &Target) -> bool {
        self.network == target.network
            && self.host.as_ref().is_none_or(|host| host.eq_ignore_ascii_case(&target.host))
            && self.port.is_none_or(|port| port == target.port)
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (network, address) = network(text);
        match split(address).as_slice() {
            [host, port] if !host.is_empty() => {
                Ok(Self { network, host: (*host).to_owned(), port: number(port)? })
            }
            _ => Err(format!("{text:?} is no HOST:PORT")),
        }
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (network, addresses) = network(text);
        let parts = split(addresses);
        let (bind, port, host, host_port) = match parts.as_slice() {
            [port, host, host_port] => (&LOOPBACK, port, host, host_port),
            [bind, port, host, host_port] => (bind, port, host, host_port),
            _ => return Err(format!("{text:?} is no [udp:][BIND:]PORT:HOST:HOSTPORT")),
        };
        if bind.is_empty() || host.is_empty() {
            return Err(format!("{text:?} lacks a host"));
        }
        let at = |host: &str, port: u16| Target { network, host: host.to_owned(), port };
        let target = at(host, number(host_port)?);
        if target.port == 0 {
            return Err(format!("{text:?} leads to port 0"));
        }
        Ok(Self { listen: at(bind, number(port)?), target })
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (network, address) = network(text);
        match split(address).as_slice() {
            [host, port] if !host.is_empty() => Ok(Self {
                network,
                host: (*host != "*").then(|| (*host).to_owned()),
                port: if *port == "*" { None } else { Some(number(port)?) },
            }),
            _ => Err(format!("{text:?} is no HOST:PORT")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = match self.network {
            Network::Tcp => "tcp",
            Network::Udp => "udp",
        };
        if self.host.contains(':') {
            write!(f, "{network}:[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{network}:{}:{}", self.host, self.port)
        }
    }
}

fn network(text: &str) -> (Network, &str) {
    if let Some(address) = text.strip_prefix("udp:") {
        (Network::Udp, address)
    } else {
        (Network::Tcp, text.strip_prefix("tcp:").unwrap_or(text))
    }
}

/// At colons that are not in brackets; the brackets go.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = text.split(|char| {
        match char {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        char == ':' && depth == 0
    });
    parts.map(|part| part.strip_prefix('[').and_then(|part| part.strip_suffix(']')).unwrap_or(part)).collect()
}

fn number(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("{text:?} is no port"))
}

const LOOPBACK: &str = "127.0.0.1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_written_as_for_ssh() {
        for (text, listen, target) in [
            ("8080:db:5432", "tcp:127.0.0.1:8080", "tcp:db:5432"),
            ("0.0.0.0:0:10.0.0.1:22", "tcp:0.0.0.0:0", "tcp:10.0.0.1:22"),
            ("udp:[::1]:53:[2001:db8::1]:53", "udp:[::1]:53", "udp:[2001:db8::1]:53"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(
                (forward.listen.to_string(), forward.target.to_string()),
                (listen.into(), target.into())
            );
            assert_eq!(listen.parse(), Ok(forward.listen));
        }
        for bad in ["", "80", "80:host", "80:host:0", "80::22", "x:80:host:99999", "a:b:c:d:e", ":1:h:2"] {
            assert!(bad.parse::<Forward>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rule_covers_what_it_names_and_nothing_else() {
        let covers =
            |rule: &str, target: &str| rule.parse::<Rule>().unwrap().covers(&target.parse().unwrap());
        assert!(covers("localhost:22", "tcp:LOCALHOST:22") && covers("*:22", "tcp:any:22"));
        assert!(covers("host:*", "tcp:host:1") && covers("udp:*:*", "udp:x:9"));
        for (rule, target) in [
            ("localhost:22", "tcp:localhost:23"),
            ("localhost:22", "udp:localhost:22"),
            ("host:*", "tcp:host2:1"),
        ] {
            assert!(!covers(rule, target), "{rule} {target}");
        }
    }
}
