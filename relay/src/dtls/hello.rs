//! The first thing a client says, as far as a server must read it that remembers nothing. RFC 6347, section 4.2.

/// The beginning of a ClientHello: all that a cookie depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// What the client chose for this handshake; both of its hellos carry the same.
    pub random: &'a [u8; RANDOM_BYTES],
    /// What it was given, if anything.
    pub cookie: &'a [u8],
    /// Whether it can speak DTLS 1.2, or knows no more than 1.0, which nobody should speak. RFC 8996.
    pub version: Version,
    /// 0 in the first hello of a handshake, 1 in the one that returns the cookie.
    pub sequence: u16,
}

/// What a client can speak at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// DTLS 1.0.
    Dtls10,
    /// DTLS 1.2, or 1.3, which says 1.2 here.
    Dtls12,
}

impl<'a> ClientHello<'a> {
    /// Reads the first record of a datagram. A hello may come in fragments, of which the first must reach as far as
    /// the cookie: no server that keeps nothing could put it together.
    #[must_use]
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let mut record = Reader(datagram);
        let is_ours = record.byte()? == HANDSHAKE
            && record.byte()? == DTLS_MAJOR
            && record.byte()? >= DTLS_1_2_MINOR
            && record.array()? == EPOCH_0;
        record.take(RECORD_SEQUENCE_BYTES)?;
        let length = record.length_16()?;
        let mut handshake = Reader(record.take(length)?);
        let is_hello = handshake.byte()? == CLIENT_HELLO;
        let whole = handshake.length_24()?;
        let sequence = u16::from_be_bytes(handshake.array()?);
        let (offset, length) = (handshake.length_24()?, handshake.length_24()?);
        if !is_ours || !is_hello || offset != 0 || length > whole || whole > MAX_HELLO_BYTES || sequence > 1 {
            return None;
        }
        let mut body = Reader(handshake.take(length)?);
        let version = match body.array()? {
            [DTLS_MAJOR, DTLS_1_2_MINOR] => Version::Dtls12,
            [DTLS_MAJOR, DTLS_1_0_MINOR] => Version::Dtls10,
            [_, _] => return None,
        };
        let random = body.take(RANDOM_BYTES)?.try_into().ok()?;
        let session = body.byte()?;
        (usize::from(session) <= MAX_SESSION_BYTES).then_some(())?;
        body.take(session.into())?;
        let cookie = body.byte()?;
        Some(Self { random, cookie: body.take(cookie.into())?, version, sequence })
    }
}

/// Says which cookie to return. Shorter than any hello, so that it multiplies nothing.
#[must_use]
pub(super) fn verify_request(cookie: &[u8; COOKIE_BYTES]) -> [u8; VERIFY_REQUEST_BYTES] {
    let mut datagram = [0; VERIFY_REQUEST_BYTES];
    let parts: [&[u8]; 3] = [&VERIFY_REQUEST_HEAD, &[COOKIE_LENGTH], cookie];
    for (to, from) in datagram.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    datagram
}

/// Says that there is no version both can speak, in so few bytes that it multiplies nothing.
pub(super) const VERSION_ALERT: [u8; 15] = [ALERT, 254, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, FATAL, 70];

/// A hello without cookie, extensions or meaning: what brings the library to where a client stands that has been told
/// its cookie.
pub(super) fn bare_hello() -> Vec<u8> {
    const BODY: usize = 2 + RANDOM_BYTES + 1 + 1 + 2 + 2 + 2;
    let body_length = [0, 0, 42];
    debug_assert_eq!(BODY, 42);
    let parts: [&[u8]; 10] = [
        &[HANDSHAKE, DTLS_MAJOR, DTLS_1_2_MINOR, 0, 0],
        &[0; RECORD_SEQUENCE_BYTES],
        &[0, 54],
        &[CLIENT_HELLO],
        &body_length,
        &[0, 0, 0, 0, 0],
        &body_length,
        &[DTLS_MAJOR, DTLS_1_2_MINOR],
        &[0; RANDOM_BYTES],
        // No session, no cookie, one suite, no compression.
        &[0, 0, 0, 2, 0xc0, 0x2b, 1, 0],
    ];
    parts.concat()
}

/// Reads from the front and never past the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn length_16(&mut self) -> Option<usize> {
        self.array().map(|bytes| usize::from(u16::from_be_bytes(bytes)))
    }

    fn length_24(&mut self) -> Option<usize> {
        let [high, middle, low] = self.array()?;
        Some(usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low))
    }
}

pub(super) const RANDOM_BYTES: usize = 32;
pub(super) const COOKIE_BYTES: usize = 32;
const COOKIE_LENGTH: u8 = 32;
const RECORD_SEQUENCE_BYTES: usize = 6;
const EPOCH_0: [u8; 2] = [0, 0];
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const DTLS_MAJOR: u8 = 254;
/// Versions count downwards: 255 is 1.0.
const DTLS_1_2_MINOR: u8 = 253;
const DTLS_1_0_MINOR: u8 = 255;
const ALERT: u8 = 21;
const FATAL: u8 = 2;
const MAX_SESSION_BYTES: usize = 32;
/// Several times what clients with post-quantum key shares send.
const MAX_HELLO_BYTES: usize = 8 * 1024;
/// Record and handshake headers, and the version, which is 1.0 whatever is spoken later.
const VERIFY_REQUEST_HEAD: [u8; 27] = [
    HANDSHAKE, 254, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 47, // record
    3, 0, 0, 35, 0, 0, 0, 0, 0, 0, 0, 35, // hello_verify_request, number 0, in one piece
    254, 255,
];
pub(super) const VERIFY_REQUEST_BYTES: usize = VERIFY_REQUEST_HEAD.len() + 1 + COOKIE_BYTES;

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `openssl s_client -dtls1_2` says first, shortened to one suite and no extension.
    pub(in crate::dtls) fn hello(sequence: u8, cookie: &[u8]) -> Vec<u8> {
        let length = u8::try_from(cookie.len()).unwrap();
        let body =
            [&[254, 253][..], &[7; RANDOM_BYTES], &[0, length], cookie, &[0, 2, 0xc0, 0x2b, 1, 0]].concat();
        let body_length = [0, 0, u8::try_from(body.len()).unwrap()];
        let handshake = [&[1][..], &body_length, &[0, sequence, 0, 0, 0], &body_length, &body].concat();
        let record_length = u8::try_from(handshake.len()).unwrap();
        [&[22, 254, 255, 0, 0, 0, 0, 0, 0, 0, sequence, 0, record_length], &handshake[..]].concat()
    }

    #[test]
    fn a_hello_is_read_as_far_as_its_cookie() {
        for (sequence, cookie) in [(0, &[][..]), (1, &[9; 32])] {
            let datagram = hello(sequence, cookie);
            let read = ClientHello::parse(&datagram).unwrap();
            let version = Version::Dtls12;
            assert_eq!(read, ClientHello { random: &[7; 32], cookie, version, sequence: sequence.into() });
            for end in 0..datagram.len() {
                assert_eq!(ClientHello::parse(&datagram[..end]), None, "{end}");
            }
        }
        assert!(ClientHello::parse(&bare_hello()).is_some_and(|hello| hello.cookie.is_empty()));
    }

    #[test]
    fn what_is_no_first_hello_is_nothing() {
        let good = hello(0, &[]);
        for (at, wrong) in [
            (0, 23),   // application data
            (1, 3),    // TLS
            (2, 252),  // DTLS 1.3 has no such records
            (4, 1),    // encrypted
            (13, 2),   // ServerHello
            (14, 1),   // 64 KiB long
            (18, 2),   // the third of its kind
            (21, 1),   // a later fragment
            (26, 252), // DTLS 1.3 does not say so here
            (59, 33),  // a session id that is too long
        ] {
            let mut bad = good.clone();
            assert_ne!(bad[at], wrong);
            bad[at] = wrong;
            assert_eq!(ClientHello::parse(&bad), None, "{wrong} at {at}");
        }
    }

    #[test]
    fn a_verify_request_is_shorter_than_any_hello() {
        let request = verify_request(&[5; COOKIE_BYTES]);
        assert!(request.len() < bare_hello().len());
        assert_eq!(request[11..13], [0, 47]);
        assert_eq!(request[request.len() - 33..], [&[32][..], &[5; 32]].concat());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = ClientHello::parse(&bytes);
        }

        #[test]
        fn no_change_of_a_hello_panics(at in 0usize..67, to: u8, end in 0usize..68) {
            let mut datagram = hello(0, &[]);
            datagram.truncate(end);
            if let Some(byte) = datagram.get_mut(at) {
                *byte = to;
            }
            let _ = ClientHello::parse(&datagram);
        }
    }
}
