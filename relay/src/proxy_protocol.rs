//! The PROXY protocol, version 2: what a proxy says in front of a connection about who is behind it.
//!
//! Only the binary form, only streams, and only from proxies that the operator trusts: whoever else says it is lying
//! about who they are. <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>, section 2.2.

use std::net::{IpAddr, SocketAddr};

/// The connection begins with something else, or with what no proxy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no PROXY header, version 2")]
pub struct NoHeader;

/// The beginning of a connection from a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Not all of the header is here yet.
    Partial,
    /// All of it.
    Whole {
        /// Where what is behind it begins.
        length: usize,
        /// Who is behind the proxy; `None` where it speaks for itself.
        client: Option<SocketAddr>,
    },
}

/// Reads the header at the front of `bytes`. What follows the addresses is skipped.
pub fn parse(bytes: &[u8]) -> Result<Beginning, NoHeader> {
    let begun = bytes.len().min(SIGNATURE.len());
    if bytes.get(..begun) != SIGNATURE.get(..begun) {
        return Err(NoHeader);
    }
    let Some((&[version_and_command, family, high, low], rest)) =
        bytes.get(SIGNATURE.len()..).and_then(|rest| rest.split_first_chunk())
    else {
        return Ok(Beginning::Partial);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_REST_BYTES {
        return Err(NoHeader);
    }
    let client = match (version_and_command, family) {
        (LOCAL, _) => None,
        // A proxy that does not know.
        (PROXY, UNSPECIFIED) => None,
        (PROXY, TCP_OVER_IPV4) => Some(address::<4>(rest, length)?),
        (PROXY, TCP_OVER_IPV6) => Some(address::<16>(rest, length)?),
        _ => return Err(NoHeader),
    };
    match (client, rest.len() < length) {
        (_, true) | (Some(None), _) => Ok(Beginning::Partial),
        (client, false) => Ok(Beginning::Whole { length: HEADER_BYTES + length, client: client.flatten() }),
    }
}

/// The source of the four parts: source, destination, and their ports. `None` while it is not here.
fn address<const N: usize>(rest: &[u8], length: usize) -> Result<Option<SocketAddr>, NoHeader>
where
    IpAddr: From<[u8; N]>,
{
    if length < 2 * N + 4 {
        return Err(NoHeader);
    }
    let ip = rest.first_chunk::<N>().map(|ip| IpAddr::from(*ip).to_canonical());
    let port = rest.get(2 * N..).and_then(<[u8]>::first_chunk).map(|port| u16::from_be_bytes(*port));
    Ok(ip.zip(port).map(SocketAddr::from))
}

/// The longest header that is read: all addresses and a good deal of what may follow them.
pub const MAX_BYTES: usize = HEADER_BYTES + MAX_REST_BYTES;
const HEADER_BYTES: usize = SIGNATURE.len() + 4;
const MAX_REST_BYTES: usize = 2048;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    fn over_ipv4() -> Vec<u8> {
        header(PROXY, TCP_OVER_IPV4, &[192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x0d, 0x96, 4, 0, 1, 0])
    }

    #[test]
    fn the_client_behind_the_proxy_is_found_and_what_follows_is_skipped() {
        let ipv4 = over_ipv4();
        let whole = Beginning::Whole { length: ipv4.len(), client: Some("192.0.2.7:12345".parse().unwrap()) };
        assert_eq!(parse(&ipv4), Ok(whole));
        assert_eq!(parse(&[&ipv4[..], b"\x00\x01"].concat()), Ok(whole));
        for end in 0..ipv4.len() {
            assert_eq!(parse(&ipv4[..end]), Ok(Beginning::Partial), "{end}");
        }
        let mut rest = [0; 36];
        rest[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        rest[33] = 9;
        let ipv6 = header(PROXY, TCP_OVER_IPV6, &rest);
        let client = Some("[2001:db8::]:9".parse().unwrap());
        assert_eq!(parse(&ipv6), Ok(Beginning::Whole { length: 52, client }));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let mut rest = [0; 36];
        rest[10..16].copy_from_slice(&[255, 255, 192, 0, 2, 1]);
        let client = Some("192.0.2.1:0".parse().unwrap());
        assert_eq!(parse(&header(PROXY, TCP_OVER_IPV6, &rest)), Ok(Beginning::Whole { length: 52, client }));
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_or_does_not_know_names_nobody() {
        for (command, family) in [(LOCAL, 0), (LOCAL, TCP_OVER_IPV4), (PROXY, UNSPECIFIED)] {
            let whole = Beginning::Whole { length: 20, client: None };
            assert_eq!(parse(&header(command, family, &[1, 2, 3, 4])), Ok(whole));
        }
    }

    #[test]
    fn everything_else_is_no_header() {
        for bytes in [
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
            b"\x00\x01\x00\x00".to_vec(),
            header(0x11, TCP_OVER_IPV4, &[0; 12]), // version 1
            header(0x22, TCP_OVER_IPV4, &[0; 12]), // an unknown command
            header(PROXY, 0x12, &[0; 12]),         // datagrams
            header(PROXY, 0x31, &[0; 216]),        // Unix sockets
            header(PROXY, TCP_OVER_IPV4, &[0; 11]),
            header(PROXY, TCP_OVER_IPV6, &[0; 35]),
            header(LOCAL, 0, &[0; MAX_REST_BYTES + 1]),
        ] {
            assert_eq!(parse(&bytes), Err(NoHeader), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_header_is_longer_than_what_is_here(tail: Vec<u8>, cut in 0usize..16) {
            let bytes = [&over_ipv4()[..16 - cut], &tail].concat();
            if let Ok(Beginning::Whole { length, .. }) = parse(&bytes) {
                prop_assert!(length <= bytes.len() && length <= MAX_BYTES);
            }
        }
    }
}
