//! One client's DTLS association: the handshake, then records, until either side ends it.
//!
//! The library does the cryptography, the flights and their repetition. It begins where the front has left the
//! client: with a cookie that has been checked.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::crypto::{CryptoProvider, HashAlgorithm, HmacProvider, SignatureAlgorithm, rust_crypto};
use dimpl::{Config, CryptoError, Dtls, DtlsCertificate, Output};

use super::hello::{self, COOKIE_BYTES, RANDOM_BYTES};

/// What all sessions have in common.
#[derive(Clone)]
pub struct SessionConfig(Arc<Config>);

impl SessionConfig {
    /// Tries the cryptography out, which may fail where it is broken.
    pub fn new() -> Result<Self, dimpl::Error> {
        let provider = CryptoProvider { hmac_provider: &CheckedCookie, ..rust_crypto::default_provider() };
        let config = Config::builder()
            .with_crypto_provider(provider)
            .require_client_certificate(false)
            .handshake_timeout(HANDSHAKE_TIMEOUT)
            .mtu(MTU)
            .build()?;
        Ok(Self(Arc::new(config)))
    }
}

/// Keys are reachable from it.
impl fmt::Debug for SessionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionConfig")
    }
}

/// A certificate that sessions can show; `None` unless its key is ECDSA on P-256 or P-384.
#[must_use]
pub fn certificate(certificate: Vec<u8>, private_key: Vec<u8>) -> Option<DtlsCertificate> {
    let key = rust_crypto::default_provider().key_provider.load_private_key(&private_key).ok()?;
    let is_good = key.algorithm() == SignatureAlgorithm::ECDSA && !certificate.is_empty();
    is_good.then_some(DtlsCertificate { certificate, private_key })
}

/// A client from its second hello on.
pub struct Session {
    dtls: Dtls,
    random: [u8; RANDOM_BYTES],
    cookie: [u8; COOKIE_BYTES],
    is_open: bool,
    timeout: Option<Instant>,
}

/// What a session has for others.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// To be sent to the client.
    Transmit(&'a [u8]),
    /// What the client said.
    Data(&'a [u8]),
}

/// The session is over; nothing can be said in it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// The client said so.
    #[error("closed by the client")]
    Closed,
    /// It could not be begun, or its time ran out, or the client broke the rules.
    #[error("failed")]
    Failed,
}

impl Session {
    /// Begins with the datagram that the front admitted. `buffer` takes what goes out and comes in, and is large.
    pub fn begin(
        config: &SessionConfig,
        certificate: &DtlsCertificate,
        now: Instant,
        random: [u8; RANDOM_BYTES],
        cookie: [u8; COOKIE_BYTES],
    ) -> Result<Self, SessionEnd> {
        let mut dtls = Dtls::new_12(Arc::clone(&config.0), certificate.clone(), now);
        // What the front has said and heard, said and heard again: messages are numbered on from there.
        dtls.handle_timeout(now).map_err(|_| SessionEnd::Failed)?;
        with_cookie(cookie, || dtls.handle_packet(&hello::bare_hello())).map_err(|_| SessionEnd::Failed)?;
        let mut session = Self { dtls, random, cookie, is_open: false, timeout: None };
        session.drain(&mut [0; 512], &mut |_| ())?;
        Ok(session)
    }

    /// A datagram of this client.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        datagram: &[u8],
        buffer: &mut [u8],
        sink: &mut dyn FnMut(Outcome<'_>),
    ) -> Result<(), SessionEnd> {
        let Self { dtls, cookie, .. } = self;
        let handled = with_cookie(*cookie, || {
            dtls.handle_timeout(now)?;
            dtls.handle_packet(datagram)
        });
        let drained = self.drain(buffer, sink);
        handled.map_err(|_| SessionEnd::Failed)?;
        drained
    }

    /// Repeats what the client did not answer.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        buffer: &mut [u8],
        sink: &mut dyn FnMut(Outcome<'_>),
    ) -> Result<(), SessionEnd> {
        self.dtls.handle_timeout(now).map_err(|_| SessionEnd::Failed)?;
        self.drain(buffer, sink)
    }

    /// When to call `handle_timeout`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timeout
    }

    /// Says something to the client.
    pub fn send(
        &mut self,
        message: &[u8],
        buffer: &mut [u8],
        sink: &mut dyn FnMut(Outcome<'_>),
    ) -> Result<(), SessionEnd> {
        self.dtls.send_application_data(message).map_err(|_| SessionEnd::Failed)?;
        self.drain(buffer, sink)
    }

    /// Says that nothing more will be said.
    pub fn close(&mut self, buffer: &mut [u8], sink: &mut dyn FnMut(Outcome<'_>)) {
        if self.dtls.close().is_ok() {
            // It is over either way.
            let _ = self.drain(buffer, sink);
        }
    }

    /// Whether the handshake is done.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether a hello with this random belongs to it.
    #[must_use]
    pub fn began_with(&self, random: &[u8; RANDOM_BYTES]) -> bool {
        self.random == *random
    }

    fn drain(&mut self, buffer: &mut [u8], sink: &mut dyn FnMut(Outcome<'_>)) -> Result<(), SessionEnd> {
        let mut is_closed = false;
        loop {
            match self.dtls.poll_output(buffer) {
                Output::Packet(datagram) => sink(Outcome::Transmit(datagram)),
                Output::ApplicationData(data) => sink(Outcome::Data(data)),
                Output::Connected => self.is_open = true,
                Output::CloseNotify => is_closed = true,
                Output::Timeout(at) => {
                    // An open session waits for nothing.
                    self.timeout = (!self.is_open).then_some(at);
                    break;
                }
                // No record is longer than the buffer.
                Output::BufferTooSmall { .. } => return Err(SessionEnd::Failed),
                Output::PeerCert(_) | Output::KeyingMaterial(..) | _ => {}
            }
        }
        if is_closed { Err(SessionEnd::Closed) } else { Ok(()) }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}

/// The library signs cookies with a key that each session has to itself, which cannot be had without a session. So it
/// is given the cookie that the front made and checked: what it "signs" is what the client returned, and nothing else
/// is. All other HMACs are made as ever.
#[derive(Debug)]
struct CheckedCookie;

impl HmacProvider for CheckedCookie {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        match CHECKED.get() {
            Some(cookie) => Ok(cookie),
            None => rust_crypto::default_provider().hmac_provider.hmac_sha256(key, data),
        }
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        rust_crypto::default_provider().hmac_provider.hmac(hash, key, data, out)
    }
}

thread_local! {
    static CHECKED: Cell<Option<[u8; COOKIE_BYTES]>> = const { Cell::new(None) };
}

/// Lets the library find this cookie good, while `body` runs.
fn with_cookie<T>(cookie: [u8; COOKIE_BYTES], body: impl FnOnce() -> T) -> T {
    CHECKED.set(Some(cookie));
    let result = body();
    CHECKED.set(None);
    result
}

/// From the second hello to the last message. A client on a bad path repeats its flights within it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Of the handshake; what is relayed is as long as it is.
const MTU: usize = 1200;
