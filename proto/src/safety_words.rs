//! Safety words: twelve words that both ends of a connection compute from each other's keys and read to each other.
//!
//! For each end, K is the SHA-256 fingerprint of the certificate that its DTLS used. The words of K are the six bytes
//! of PBKDF2-HMAC-SHA256 over it, each as a word of [`LIST`]. Both ends show both rows, in the order of the keys. Each
//! row depends on one key alone, so that whoever wants to sit in between must find a second key with the same words.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// One word for each byte, one a line; the page reads this very file.
pub const LIST: &str = include_str!("safety_words.txt");

/// The words of both ends, whichever is which.
#[must_use]
pub fn safety_words(one: &[u8], other: &[u8]) -> Vec<&'static str> {
    let (first, second) = if one <= other { (one, other) } else { (other, one) };
    [first, second].into_iter().flat_map(words_of).collect()
}

/// The six words of one end. Takes a while on purpose: not on a thread that has other things to do.
#[must_use]
pub fn words_of(key: &[u8]) -> Vec<&'static str> {
    let words: Vec<&'static str> = LIST.lines().collect();
    derive(key).iter().filter_map(|&byte| words.get(usize::from(byte)).copied()).collect()
}

/// The first bytes of the first, and here only, block of PBKDF2. RFC 8018, section 5.2.
fn derive(key: &[u8]) -> [u8; WORDS] {
    let mut block = [0; 32];
    let Ok(keyed) = Hmac::<Sha256>::new_from_slice(key) else { return [0; WORDS] };
    let mut round: [u8; 32] =
        keyed.clone().chain_update(SALT).chain_update(1u32.to_be_bytes()).finalize().into_bytes().into();
    for _ in 0..ITERATIONS {
        for (byte, more) in block.iter_mut().zip(round) {
            *byte ^= more;
        }
        round = keyed.clone().chain_update(round).finalize().into_bytes().into();
    }
    let mut bytes = [0; WORDS];
    bytes.iter_mut().zip(block).for_each(|(byte, derived)| *byte = derived);
    bytes
}

const SALT: &[u8] = b"farcall safety words v1";
const ITERATIONS: u32 = 100_000;
const WORDS: usize = 6;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_is_one_distinct_word_for_each_byte() {
        let words: Vec<&str> = LIST.lines().collect();
        assert_eq!((words.len(), words.iter().collect::<BTreeSet<_>>().len()), (256, 256));
        assert!(words.iter().all(|word| (3..=8).contains(&word.len())));
        assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
    }

    /// Made with `hashlib.pbkdf2_hmac("sha256", key, b"farcall safety words v1", 100000, 6)` of Python.
    #[test]
    fn others_derive_the_same_bytes() {
        assert_eq!(derive(&[0; 32]), [196, 162, 214, 132, 126, 231]);
        let counting: Vec<u8> = (0..32).collect();
        assert_eq!(derive(&counting), [187, 41, 122, 70, 12, 148]);
    }

    #[test]
    fn both_ends_read_the_same_and_somebody_in_between_does_not() {
        let (ada, bob, eve) = ([1; 32], [2; 32], [3; 32]);
        let words = safety_words(&ada, &bob);
        assert_eq!(words.len(), 12);
        assert_eq!(words, safety_words(&bob, &ada));
        assert_ne!(words, safety_words(&ada, &eve));
    }
}
