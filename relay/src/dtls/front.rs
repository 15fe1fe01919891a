//! What becomes of a datagram before any session does: a stranger shows first that it is where it says it is.

use std::net::SocketAddr;
use std::time::Instant;

use super::cookie::CookieKey;
use super::hello::{
    self, COOKIE_BYTES, ClientHello, RANDOM_BYTES, VERIFY_REQUEST_BYTES, VERSION_ALERT, Version,
};

/// Decides without remembering.
#[derive(Debug, Clone)]
pub struct Front {
    key: CookieKey,
}

/// What to do with a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Ask for a cookie with this.
    Challenge([u8; VERIFY_REQUEST_BYTES]),
    /// Say with this that it speaks nothing we do.
    Refuse([u8; VERSION_ALERT.len()]),
    /// The client returned its cookie: a handshake begins, or one that has begun goes on.
    Admit {
        /// Tells this handshake from an earlier one of the same client.
        random: [u8; RANDOM_BYTES],
        /// What it returned.
        cookie: [u8; COOKIE_BYTES],
    },
    /// Nothing a handshake begins with: for a session, if there is one.
    NoHello,
}

impl Front {
    /// With the key of all workers.
    #[must_use]
    pub fn new(key: CookieKey) -> Self {
        Self { key }
    }

    /// Looks at a datagram that came from `client` to `server`.
    #[must_use]
    pub fn inspect(&self, now: Instant, client: SocketAddr, server: SocketAddr, datagram: &[u8]) -> Verdict {
        let Some(ClientHello { random, cookie, version, sequence }) = ClientHello::parse(datagram) else {
            return Verdict::NoHello;
        };
        match version {
            Version::Dtls10 => return Verdict::Refuse(VERSION_ALERT),
            Version::Dtls12 => {}
        }
        match <[u8; COOKIE_BYTES]>::try_from(cookie) {
            Ok(cookie) if sequence == 1 && self.key.is_good(now, client, server, random, &cookie) => {
                Verdict::Admit { random: *random, cookie }
            }
            Ok(_) | Err(_) => {
                let cookie = self.key.cookie(now, client, server, random);
                Verdict::Challenge(hello::verify_request(&cookie))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::super::hello::tests::hello;
    use super::*;
    use crate::clock;

    #[test]
    fn a_client_is_admitted_once_it_returns_its_cookie() {
        let now = clock::now();
        let front = Front::new(CookieKey::new(&mut ChaCha20Rng::seed_from_u64(1), now));
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (client, server) = (address("192.0.2.1:1000"), address("198.51.100.1:5349"));
        let Verdict::Challenge(request) = front.inspect(now, client, server, &hello(0, &[])) else {
            panic!("admitted without a cookie")
        };
        let cookie = &request[request.len() - COOKIE_BYTES..];
        let admitted = front.inspect(now, client, server, &hello(1, cookie));
        assert!(matches!(admitted, Verdict::Admit { random, .. } if random == [7; 32]), "{admitted:?}");

        let elsewhere = front.inspect(now, address("192.0.2.9:1000"), server, &hello(1, cookie));
        assert!(matches!(elsewhere, Verdict::Challenge(_)), "a cookie of another address");
        let forged = front.inspect(now, client, server, &hello(1, &[0; 32]));
        assert_eq!(forged, Verdict::Challenge(request), "a cookie of its own");
        let mut old = hello(0, &[]);
        old[26] = 255;
        assert_eq!(front.inspect(now, client, server, &old), Verdict::Refuse(VERSION_ALERT));
        assert_eq!(front.inspect(now, client, server, b"\0\x01\0\0"), Verdict::NoHello);
    }
}
