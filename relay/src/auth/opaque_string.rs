//! OpaqueString: names and passwords in the one form both ends compute with. RFC 8265, section 4.2.

use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::PrecisFastInvocation;

/// Text that nobody could type the same way twice: empty, or with characters that may not stand in a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is empty or has characters that RFC 8265 forbids in names and passwords")]
pub struct NotOpaque;

/// Other spaces become spaces, and composed characters one; the rest stays.
pub fn prepare(text: &str) -> Result<String, NotOpaque> {
    OpaqueString::enforce(text).map(|prepared| prepared.into_owned()).map_err(|_| NotOpaque)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_in_different_ways_becomes_the_same() {
        assert_eq!(prepare("wonder").as_deref(), Ok("wonder"));
        assert_eq!(prepare("Wo n:d€r").as_deref(), Ok("Wo n:d€r"), "case and punctuation stay");
        assert_eq!(prepare("nai\u{308}ve").as_deref(), Ok("na\u{ef}ve"));
        assert_eq!(prepare("a\u{a0}b\u{3000}c").as_deref(), Ok("a b c"));
        assert_eq!(prepare("\u{30de}\u{30c8}").as_deref(), Ok("\u{30de}\u{30c8}"));
    }

    #[test]
    fn what_cannot_be_typed_is_refused() {
        for text in ["", "a\tb", "a\u{0}", "soft\u{ad}hyphen", "\u{feff}"] {
            assert_eq!(prepare(text), Err(NotOpaque), "{text:?}");
        }
    }
}
