//! Reads a candidate-attribute far enough to show it to people. RFC 8839, section 5.1.

use std::net::{IpAddr, SocketAddr};

use super::types::Candidate;
use crate::report::{CandidateReport, CandidateSide};

/// What to tell of a candidate; nothing if it is none.
pub(crate) fn report(side: CandidateSide, candidate: &Candidate) -> Option<CandidateReport> {
    let line = candidate.line.strip_prefix("candidate:").unwrap_or(&candidate.line);
    let mut words = line.split_ascii_whitespace();
    let _foundation = words.next()?;
    let _component: u16 = words.next()?.parse().ok()?;
    let protocol = words.next()?.to_ascii_lowercase();
    let _priority: u32 = words.next()?.parse().ok()?;
    let address = words.next()?;
    let port: u16 = words.next()?.parse().ok()?;
    if words.next()? != "typ" {
        return None;
    }
    let kind = words.next()?;
    let known =
        matches!(kind, "host" | "srflx" | "prflx" | "relay") && matches!(protocol.as_str(), "udp" | "tcp");
    if !known || !is_host(address) {
        return None;
    }
    let rest: Vec<&str> = words.collect();
    let extension = |name: &str| {
        rest.chunks_exact(2).find_map(|pair| match pair {
            [key, value] if *key == name => Some(*value),
            _ => None,
        })
    };
    let related = extension("raddr")
        .zip(extension("rport").and_then(|port| port.parse().ok()))
        .map(|(address, port)| joined(address, port));
    Some(CandidateReport {
        side,
        kind: kind.to_owned(),
        protocol,
        tcp_type: extension("tcptype").filter(|kind| is_tcp_type(kind)).map(str::to_owned),
        address: joined(address, port),
        related,
        url: candidate.url.clone(),
        elapsed_ms: None,
    })
}

/// The address of a UDP candidate, if it is no name.
pub(crate) fn address(line: &str) -> Option<SocketAddr> {
    let line = line.strip_prefix("candidate:")?;
    let mut words = line.split_ascii_whitespace().skip(2);
    let is_udp = words.next()?.eq_ignore_ascii_case("udp");
    let mut words = words.skip(1);
    let ip = words.next()?.parse().ok()?;
    let port = words.next()?.parse().ok()?;
    is_udp.then_some(SocketAddr::new(ip, port))
}

/// The same, if the path to it leads through no relay.
pub(crate) fn direct_address(line: &str) -> Option<SocketAddr> {
    let kind = line.split_ascii_whitespace().skip_while(|word| *word != "typ").nth(1)?;
    address(line).filter(|_| matches!(kind, "host" | "srflx" | "prflx"))
}

fn is_tcp_type(kind: &str) -> bool {
    matches!(kind, "active" | "passive" | "so")
}

/// Whether it is of ICE over TCP, RFC 6544.
pub(crate) fn is_tcp(line: &str) -> bool {
    line.split_ascii_whitespace().nth(2).is_some_and(|protocol| protocol.eq_ignore_ascii_case("tcp"))
}

/// An address, or a name such as those that browsers hide addresses behind.
fn is_host(address: &str) -> bool {
    address.parse::<IpAddr>().is_ok()
        || (!address.is_empty()
            && address.len() <= 253
            && address.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.'))
}

fn joined(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> Option<CandidateReport> {
        let candidate = Candidate { line: line.to_owned(), mid: None, m_line_index: None, url: None };
        report(CandidateSide::Remote, &candidate)
    }

    #[test]
    fn a_relayed_candidate_shows_its_address_and_what_it_relates_to() {
        let report = read(
            "candidate:1 1 UDP 41885439 192.0.2.7 49203 typ relay raddr 10.0.0.1 rport 5000 generation 0",
        )
        .unwrap();
        assert_eq!((report.kind.as_str(), report.protocol.as_str()), ("relay", "udp"));
        assert_eq!(
            (report.address.as_str(), report.related.as_deref()),
            ("192.0.2.7:49203", Some("10.0.0.1:5000"))
        );
    }

    #[test]
    fn an_ipv6_address_is_put_in_brackets() {
        assert_eq!(read("1 1 udp 1 2001:db8::1 9 typ host").unwrap().address, "[2001:db8::1]:9");
    }

    #[test]
    fn what_is_no_candidate_is_refused() {
        for line in [
            "",
            "candidate:",
            "candidate:1 1 udp 1 192.0.2.7 99999 typ host",
            "candidate:1 1 udp 1 192.0.2.7 1 typ other",
            "candidate:1 1 sctp 1 192.0.2.7 1 typ host",
            "candidate:1 1 udp 1 a;b 1 typ host",
            "candidate:1 x udp 1 192.0.2.7 1 typ host",
            "candidate:1 1 udp 1 192.0.2.7 1 host",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn the_address_of_a_udp_candidate_is_found_and_of_no_other() {
        let found = |line| address(line).map(|address| address.to_string());
        let line = "candidate:1 1 UDP 1 2001:db8::1 99 typ host";
        assert_eq!(found(line).as_deref(), Some("[2001:db8::1]:99"));
        for line in
            ["candidate:1 1 tcp 1 192.0.2.1 9 typ host", "candidate:1 1 udp 1 x.local 9 typ host", "x", ""]
        {
            assert_eq!(found(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(line in "\\PC*") {
            let _ = read(&line);
        }
    }
}
