//! What clients are given to name something by later, perhaps from an address whose datagrams meet another worker.
//!
//! Each handle says which worker it is of, so that whoever gets it knows whom to ask, and is of no use to anybody who
//! was not given it: tickets are sealed by a key of this process, and reservation tokens are random.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rand::CryptoRng;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::ConnectionId;
use super::allocate::ReservationToken;

/// A worker's number.
pub type WorkerIndex = u16;

/// Makes and reads the handles of one worker. All workers have the same key.
#[derive(Clone)]
pub struct Handles {
    key: [u8; 32],
    worker: WorkerIndex,
    workers: WorkerIndex,
}

impl fmt::Debug for Handles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handles").field("key", &"redacted").field("worker", &self.worker).finish()
    }
}

/// The key of handles as data.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
pub struct HandleSecret {
    key: [u8; 32],
}

impl fmt::Debug for HandleSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandleSecret(redacted)")
    }
}

/// What a ticket says: whose it is, and a number that nobody can guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub(super) struct TicketId([u8; ID_BYTES]);

impl TicketId {
    pub(super) fn worker(self) -> WorkerIndex {
        let [high, low, ..] = self.0;
        WorkerIndex::from_be_bytes([high, low])
    }
}

impl Handles {
    /// Those of the first of so many workers, under a new key.
    #[must_use]
    pub fn new(rng: &mut impl CryptoRng, workers: WorkerIndex) -> Self {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        Self { key, worker: 0, workers }
    }

    /// What another process of this program needs so that handles stay good.
    #[must_use]
    pub fn secret(&self) -> HandleSecret {
        HandleSecret { key: self.key }
    }

    /// Goes on making and reading as another process did, for as many workers.
    #[must_use]
    pub fn go_on(secret: &HandleSecret, workers: WorkerIndex) -> Self {
        Self { key: secret.key, worker: 0, workers }
    }

    /// Those of another worker under the same key.
    #[must_use]
    pub fn of_worker(&self, worker: WorkerIndex) -> Self {
        Self { worker, ..self.clone() }
    }

    pub(super) fn worker(&self) -> WorkerIndex {
        self.worker
    }

    pub(super) fn new_ticket(&self, rng: &mut impl CryptoRng) -> TicketId {
        let mut id = [0; ID_BYTES];
        rng.fill_bytes(&mut id);
        let (worker, _) = id.split_at_mut(2);
        worker.copy_from_slice(&self.worker.to_be_bytes());
        TicketId(id)
    }

    /// The value of a MOBILITY-TICKET. It is text of 32 bytes, since a well-known client keeps it as a string.
    pub(super) fn ticket_text(&self, TicketId(id): TicketId) -> [u8; TICKET_TEXT_BYTES] {
        let mut sealed = [0; ID_BYTES + SEAL_BYTES];
        let (front, back) = sealed.split_at_mut(ID_BYTES);
        front.copy_from_slice(&id);
        back.copy_from_slice(&self.seal(b"ticket", &id));
        let mut text = [0; TICKET_TEXT_BYTES];
        // 24 bytes are 32 characters.
        let written = URL_SAFE_NO_PAD.encode_slice(sealed, &mut text);
        debug_assert!(written.is_ok_and(|length| length == TICKET_TEXT_BYTES));
        text
    }

    /// `None` for what this process did not make.
    pub(super) fn read_ticket(&self, text: &[u8]) -> Option<TicketId> {
        let mut sealed = [0; ID_BYTES + SEAL_BYTES + 2];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut sealed).ok()?;
        let (id, seal) = sealed.get(..length)?.split_first_chunk::<ID_BYTES>()?;
        let is_ours: bool = self.seal(b"ticket", id).as_slice().ct_eq(seal).into();
        is_ours.then_some(TicketId(*id))
    }

    /// Random, but for who can tell whose it is.
    pub(super) fn new_token(&self, rng: &mut impl CryptoRng) -> ReservationToken {
        let mut token = ReservationToken::default();
        rng.fill_bytes(&mut token);
        self.mask(token, self.worker)
    }

    /// Which worker gave a token, if anybody did.
    pub(super) fn token_worker(&self, token: ReservationToken) -> Option<WorkerIndex> {
        let [.., high, low] = self.mask(token, 0);
        let [.., own_high, own_low] = token;
        let worker = WorkerIndex::from_be_bytes([high ^ own_high, low ^ own_low]);
        (worker < self.workers).then_some(worker)
    }

    /// Random, but for who can tell whose it is. It need not be hard to guess: only its client may come for it.
    pub(super) fn new_connection(&self, rng: &mut impl CryptoRng) -> ConnectionId {
        let mut front = [0; 2];
        rng.fill_bytes(&mut front);
        let ([a, b], [high, low]) = (front, self.worker.to_be_bytes());
        let [hash_high, hash_low, ..] = self.seal(b"connection", &front);
        ConnectionId(u32::from_be_bytes([a, b, hash_high ^ high, hash_low ^ low]))
    }

    /// Which worker has a connection, if any does.
    pub(super) fn connection_worker(&self, ConnectionId(id): ConnectionId) -> Option<WorkerIndex> {
        let [a, b, high, low] = id.to_be_bytes();
        let [hash_high, hash_low, ..] = self.seal(b"connection", &[a, b]);
        let worker = WorkerIndex::from_be_bytes([high ^ hash_high, low ^ hash_low]);
        (worker < self.workers).then_some(worker)
    }

    /// Puts a number into the last two bytes, hidden by a hash of the others.
    fn mask(&self, token: ReservationToken, worker: WorkerIndex) -> ReservationToken {
        let [a, b, c, d, e, f, ..] = token;
        let [hash_high, hash_low, ..] = self.seal(b"token", &[a, b, c, d, e, f]);
        let [high, low] = worker.to_be_bytes();
        [a, b, c, d, e, f, hash_high ^ high, hash_low ^ low]
    }

    fn seal(&self, purpose: &[u8], bytes: &[u8]) -> [u8; SEAL_BYTES] {
        let mut seal = [0; SEAL_BYTES];
        // A key of any length will do for HMAC.
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) {
            mac.update(purpose);
            mac.update(bytes);
            seal.iter_mut().zip(mac.finalize().into_bytes()).for_each(|(to, from)| *to = from);
        }
        seal
    }
}

const ID_BYTES: usize = 8;
const SEAL_BYTES: usize = 16;
pub(super) const TICKET_TEXT_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    #[test]
    fn handles_say_whose_they_are_and_cannot_be_changed() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let first = Handles::new(&mut rng, 100);
        let stranger = Handles::new(&mut rng, 100);
        for worker in [0, 1, 77, 99] {
            let handles = first.of_worker(worker);
            let ticket = handles.new_ticket(&mut rng);
            let text = handles.ticket_text(ticket);
            assert!(text.iter().all(u8::is_ascii_graphic));
            assert_eq!((first.read_ticket(&text), ticket.worker()), (Some(ticket), worker));
            assert_eq!(stranger.read_ticket(&text), None);
            for at in 0..text.len() {
                let mut changed = text;
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                assert_eq!(first.read_ticket(&changed), None, "byte {at}");
            }
            assert_eq!(first.token_worker(handles.new_token(&mut rng)), Some(worker));
            assert_eq!(first.connection_worker(handles.new_connection(&mut rng)), Some(worker));
        }
        for text in [&b""[..], b"A", &[b'A'; 31], &[b'A'; 33], &[0xff; 32], &[b'A'; 4000]] {
            assert_eq!(first.read_ticket(text), None);
        }
    }
}
