//! Cookies: what a client must return to show that it is where it says it is. RFC 6347, section 4.2.1.
//!
//! A cookie is a signed address and time, so that the server keeps nothing until it comes back.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use rand::CryptoRng;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::hello::{COOKIE_BYTES, RANDOM_BYTES};

/// What cookies are signed with, the same for all workers of a process.
#[derive(Clone)]
pub struct CookieKey {
    key: [u8; 32],
    started: Instant,
}

impl CookieKey {
    /// A key of its own.
    pub fn new(rng: &mut impl CryptoRng, started: Instant) -> Self {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        Self { key, started }
    }

    pub(super) fn cookie(
        &self,
        now: Instant,
        client: SocketAddr,
        server: SocketAddr,
        random: &[u8; RANDOM_BYTES],
    ) -> [u8; COOKIE_BYTES] {
        self.sign(self.period(now), client, server, random)
    }

    pub(super) fn is_good(
        &self,
        now: Instant,
        client: SocketAddr,
        server: SocketAddr,
        random: &[u8; RANDOM_BYTES],
        cookie: &[u8],
    ) -> bool {
        let period = self.period(now);
        let is_of = |period| self.sign(period, client, server, random).ct_eq(cookie);
        // Without a shortcut between the two, though the time is no secret.
        (is_of(period) | is_of(period.wrapping_sub(1))).into()
    }

    fn sign(
        &self,
        period: u64,
        client: SocketAddr,
        server: SocketAddr,
        random: &[u8; RANDOM_BYTES],
    ) -> [u8; COOKIE_BYTES] {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else {
            unreachable!("HMAC takes keys of any length")
        };
        mac.update(&period.to_be_bytes());
        for address in [client, server] {
            match address.ip() {
                IpAddr::V4(ip) => mac.update(&ip.octets()),
                IpAddr::V6(ip) => mac.update(&ip.octets()),
            }
            mac.update(&address.port().to_be_bytes());
        }
        mac.update(random);
        mac.finalize().into_bytes().into()
    }

    fn period(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / PERIOD.as_secs()
    }
}

/// A secret.
impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CookieKey(redacted)")
    }
}

/// A cookie is good for one to two of these: longer than a client keeps trying.
const PERIOD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::clock;

    #[test]
    fn a_cookie_is_good_for_its_client_server_hello_and_time_alone() {
        let now = clock::now();
        let key = CookieKey::new(&mut ChaCha20Rng::seed_from_u64(1), now);
        let other = CookieKey::new(&mut ChaCha20Rng::seed_from_u64(2), now);
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (client, server) = (address("192.0.2.1:1000"), address("198.51.100.1:5349"));
        let random = [1; RANDOM_BYTES];
        let cookie = key.cookie(now, client, server, &random);
        let is_good = |after: u64, client, server, random| {
            key.is_good(now + Duration::from_secs(after), client, server, random, &cookie)
        };
        assert!(is_good(0, client, server, &random) && is_good(60, client, server, &random));
        assert!(!is_good(120, client, server, &random));
        assert!(!is_good(0, address("192.0.2.1:1001"), server, &random));
        assert!(!is_good(0, address("192.0.2.2:1000"), server, &random));
        assert!(!is_good(0, client, address("198.51.100.1:5350"), &random));
        assert!(!is_good(0, client, server, &[2; RANDOM_BYTES]));
        assert!(!other.is_good(now, client, server, &random, &cookie));
        assert!(!key.is_good(now, client, server, &random, &[]));
        assert!(!key.is_good(now, client, server, &random, &cookie[..31]));
        assert!(!format!("{key:?}").contains(char::is_numeric));
    }
}
