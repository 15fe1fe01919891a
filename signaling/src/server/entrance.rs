//! From a socket to something that HTTP is spoken over: whom a proxy says it is from, the first byte, the handshake.
//!
//! All of it under one deadline, so that whoever says nothing, or says it byte by byte, is gone soon.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::tls::Tls;
use crate::limits::TrustedProxies;

/// How strangers are let in.
#[derive(Debug)]
pub(super) struct Entrance {
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) cleartext: Cleartext,
    pub(super) proxies: Arc<TrustedProxies>,
}

/// From whom requests are taken that anybody on the way can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleartext {
    /// From everybody.
    Everybody,
    /// From this machine alone.
    Loopback,
    /// From nobody.
    Nobody,
}

/// Somebody who got in.
pub(super) struct Visitor {
    pub(super) stream: Stream,
    /// Whom the connection is from, as far as is known: the client, or a trusted proxy.
    pub(super) from: IpAddr,
}

pub(super) enum Stream {
    Clear(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// Why somebody did not get in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error("the connection failed: {0}")]
    Failed(#[from] io::Error),
    #[error("cleartext is not taken from this address")]
    Cleartext,
    #[error("the proxy's header makes no sense")]
    ProxyHeader,
    #[error("TLS is not configured")]
    NoTls,
}

impl Entrance {
    pub(super) async fn admit(&self, mut stream: TcpStream, peer: SocketAddr) -> Result<Visitor, Rejection> {
        let mut from = peer.ip().to_canonical();
        let mut first = first_byte(&stream).await?;
        if first == PROXY_SIGNATURE[0] && self.proxies.contains(from) {
            // A local connection of the proxy, such as its health check, is from the proxy itself.
            from = proxy_header(&mut stream).await?.unwrap_or(from);
            first = first_byte(&stream).await?;
        }
        let stream = match (first, &self.tls) {
            (CLIENT_HELLO, Some(tls)) => Stream::Encrypted(Box::new(tls.acceptor().accept(stream).await?)),
            (CLIENT_HELLO, None) => return Err(Rejection::NoTls),
            _ if self.takes_cleartext(from) => Stream::Clear(stream),
            _ => {
                // Whoever speaks HTTP/1 is told; nobody waits for it to be read.
                let _ = stream.try_write(NEEDS_TLS);
                return Err(Rejection::Cleartext);
            }
        };
        Ok(Visitor { stream, from })
    }

    fn takes_cleartext(&self, from: IpAddr) -> bool {
        match self.cleartext {
            Cleartext::Everybody => true,
            Cleartext::Loopback => from.is_loopback(),
            Cleartext::Nobody => false,
        }
    }
}

async fn first_byte(stream: &TcpStream) -> io::Result<u8> {
    let mut byte = [0];
    match stream.peek(&mut byte).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(byte[0]),
    }
}

/// The PROXY protocol, version 2: takes the header, and not a byte more, and returns the client that it names.
async fn proxy_header(stream: &mut TcpStream) -> Result<Option<IpAddr>, Rejection> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let (signature, [version_and_command, family, high, low]) = split_head(head);
    let mut body = vec![0; usize::from(u16::from_be_bytes([high, low]))];
    if signature != PROXY_SIGNATURE || body.len() > MAX_PROXY_BODY {
        return Err(Rejection::ProxyHeader);
    }
    stream.read_exact(&mut body).await?;
    match (version_and_command, family >> 4) {
        (0x20, _) | (0x21, 0 | 3) => Ok(None),
        (0x21, 1) => {
            let source = body.first_chunk::<4>().filter(|_| body.len() >= 12);
            source.map(|source| Some(Ipv4Addr::from(*source).into())).ok_or(Rejection::ProxyHeader)
        }
        (0x21, 2) => {
            let source = body.first_chunk::<16>().filter(|_| body.len() >= 36);
            let address = source.map(|source| IpAddr::from(Ipv6Addr::from(*source)).to_canonical());
            address.map(Some).ok_or(Rejection::ProxyHeader)
        }
        _ => Err(Rejection::ProxyHeader),
    }
}

fn split_head(head: [u8; 16]) -> ([u8; 12], [u8; 4]) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, rest @ ..] = head;
    ([a, b, c, d, e, f, g, h, i, j, k, l], rest)
}

/// The first byte of a TLS record that a handshake begins with; no text of HTTP has it.
const CLIENT_HELLO: u8 = 0x16;
const PROXY_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses and what a proxy may add to them.
const MAX_PROXY_BODY: usize = 1024;
const NEEDS_TLS: &[u8] =
    b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 28\r\nconnection: close\r\n\r\nThis port wants TLS: https.\n";

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Says something to an entrance that trusts its own machine, and returns whom that was from.
    async fn say(bytes: &[u8], cleartext: Cleartext) -> Result<(IpAddr, Vec<u8>), Rejection> {
        let proxies = Arc::new(TrustedProxies::new(["127.0.0.0/8".parse().unwrap()]));
        let entrance = Entrance { tls: None, cleartext, proxies };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let visitor = entrance.admit(stream, peer).await?;
        let Stream::Clear(mut stream) = visitor.stream else { panic!("TLS") };
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        Ok((visitor.from, rest))
    }

    fn header(version_and_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&PROXY_SIGNATURE[..], &[version_and_command, family], &length, body, b"GET"].concat()
    }

    #[tokio::test]
    async fn a_proxy_says_whom_it_is_for_and_nothing_of_the_rest_is_lost() {
        let v4 = [203, 0, 113, 9, 127, 0, 0, 1, 1, 1, 2, 2];
        let v6: Vec<u8> = ["2001:db8::9", "::1"]
            .iter()
            .flat_map(|ip| ip.parse::<Ipv6Addr>().unwrap().octets())
            .chain([0; 4])
            .chain([4, 0, 1, 7])
            .collect();
        for (bytes, from) in [
            (header(0x21, 0x11, &v4), "203.0.113.9"),
            (header(0x21, 0x21, &v6), "2001:db8::9"),
            (header(0x20, 0, &[]), "127.0.0.1"),
            (b"GET".to_vec(), "127.0.0.1"),
        ] {
            let (found, rest) = say(&bytes, Cleartext::Everybody).await.unwrap();
            assert_eq!((found, rest.as_slice()), (from.parse().unwrap(), &b"GET"[..]));
        }
    }

    #[tokio::test]
    async fn a_header_that_makes_no_sense_is_the_end() {
        let mut forged = header(0x21, 0x11, &[0; 12]);
        forged[5] = b'x';
        for bytes in
            [header(0x11, 0x11, &[0; 12]), header(0x21, 0x11, &[0; 11]), header(0x21, 0x21, &[0; 12]), forged]
        {
            let rejected = say(&bytes, Cleartext::Everybody).await.unwrap_err();
            assert!(matches!(rejected, Rejection::ProxyHeader), "{rejected:?}");
        }
        let cut = say(&PROXY_SIGNATURE[..9], Cleartext::Everybody).await.unwrap_err();
        assert!(matches!(cut, Rejection::Failed(_)), "{cut:?}");
    }

    #[tokio::test]
    async fn cleartext_is_judged_by_whom_it_is_really_from() {
        let far = header(0x21, 0x11, &[203, 0, 113, 9, 127, 0, 0, 1, 1, 1, 2, 2]);
        assert!(matches!(say(&far, Cleartext::Loopback).await, Err(Rejection::Cleartext)));
        assert!(say(b"GET", Cleartext::Loopback).await.is_ok());
        assert!(matches!(say(b"GET", Cleartext::Nobody).await, Err(Rejection::Cleartext)));
    }

    #[test]
    fn the_answer_to_cleartext_is_as_long_as_it_says() {
        let text = std::str::from_utf8(NEEDS_TLS).unwrap();
        assert_eq!(text.split_once("\r\n\r\n").unwrap().1.len(), 28);
    }
}
