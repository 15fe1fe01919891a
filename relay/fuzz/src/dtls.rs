//! What comes to a DTLS listener: first what a stranger may say, then what an admitted client may.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Instant;

use farcall_relay::clock;
use farcall_relay::dtls::{
    ClientHello, CookieKey, Front, Outcome, Session, SessionConfig, Verdict, certificate,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

/// Datagrams, each behind its length in two bytes. Panics if a stranger is answered at length, or if a session does
/// anything but go on or end.
pub fn run(bytes: &[u8]) {
    let (front, now) = front();
    let (client, server) = addresses();
    let mut session: Option<Session> = None;
    for datagram in datagrams(bytes) {
        let verdict = front.inspect(now, client, server, datagram);
        match (ClientHello::parse(datagram), verdict) {
            (None, verdict) => assert_eq!(verdict, Verdict::NoHello),
            (Some(_), Verdict::Challenge(request)) => {
                assert!(request.len() < datagram.len(), "more comes back than went in");
            }
            (Some(_), Verdict::Refuse(alert)) => assert!(alert.len() < datagram.len()),
            (Some(hello), Verdict::Admit { random, cookie }) => {
                assert!(hello.cookie == cookie && *hello.random == random);
                if !session.as_ref().is_some_and(|session| session.began_with(&random)) {
                    let config = CONFIG.get_or_init(|| SessionConfig::new().expect("sound cryptography"));
                    let certificate = certificate(vec![0x30, 0], KEY.to_vec()).expect("a key");
                    session = Session::begin(config, &certificate, now, random, cookie).ok();
                }
            }
            (Some(_), Verdict::NoHello) => panic!("a hello is no hello"),
        }
        let mut buffer = [0; 20_000];
        let mut sink = |outcome: Outcome<'_>| match outcome {
            Outcome::Transmit(datagram) => assert!(!datagram.is_empty()),
            Outcome::Data(_) => panic!("data without a handshake"),
        };
        if let Some(open) = &mut session
            && open.handle_datagram(now, datagram, &mut buffer, &mut sink).is_err()
        {
            session = None;
        }
    }
}

/// A client that returns its cookie: a hello, then one with what that was answered with.
pub fn hellos(hello: impl Fn(u8, &[u8]) -> Vec<u8>) -> Vec<u8> {
    let (front, now) = front();
    let (client, server) = addresses();
    let first = hello(0, &[]);
    let Verdict::Challenge(request) = front.inspect(now, client, server, &first) else { return first };
    let second = hello(1, &request[request.len() - 32..]);
    [first, second].iter().flat_map(|datagram| framed(datagram)).collect()
}

/// A datagram behind its length.
pub fn framed(datagram: &[u8]) -> Vec<u8> {
    let length = u16::try_from(datagram.len()).expect("a short datagram");
    [&length.to_be_bytes(), datagram].concat()
}

/// Always the same, so that a cookie of a seed is good.
fn front() -> (Front, Instant) {
    let now = clock::now();
    (Front::new(CookieKey::new(&mut ChaCha20Rng::seed_from_u64(1), now)), now)
}

fn addresses() -> (SocketAddr, SocketAddr) {
    (([192, 0, 2, 1], 1000).into(), ([198, 51, 100, 1], 5349).into())
}

fn datagrams(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk()?;
        let (datagram, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        bytes = rest;
        Some(datagram)
    })
}

static CONFIG: OnceLock<SessionConfig> = OnceLock::new();

/// Of nobody: PKCS#8, P-256, the private number 1.
const KEY: [u8; 67] = [
    0x30, 0x41, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
    0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x27, 0x30, 0x25, 0x02, 0x01, 0x01, 0x04,
    0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
];
