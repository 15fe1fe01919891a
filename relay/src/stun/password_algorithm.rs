//! PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS: how a password becomes a key. RFC 8489, sections 14.11, 14.12 and 18.5.

use super::u16_at;

/// A way from user name, realm and password to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum PasswordAlgorithm {
    /// What every client before RFC 8489 does, and whoever says nothing.
    Md5,
    /// What RFC 8489 added.
    Sha256,
}

impl PasswordAlgorithm {
    /// Its number in the registry.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }

    /// Reads the value of a PASSWORD-ALGORITHM. Neither of the two takes parameters.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        if value.len() != ENTRY_BYTES || u16_at(value, 2) != Some(0) {
            return None;
        }
        let number = u16_at(value, 0)?;
        [Self::Md5, Self::Sha256].into_iter().find(|algorithm| algorithm.number() == number)
    }

    /// The value of a PASSWORD-ALGORITHM, and an entry of PASSWORD-ALGORITHMS.
    #[must_use]
    pub const fn to_value(self) -> [u8; ENTRY_BYTES] {
        let [high, low] = self.number().to_be_bytes();
        [high, low, 0, 0]
    }
}

/// The value of our PASSWORD-ALGORITHMS, the better one first.
pub const PASSWORD_ALGORITHMS: [u8; 2 * ENTRY_BYTES] = {
    let [a, b, c, d] = PasswordAlgorithm::Sha256.to_value();
    let [e, f, g, h] = PasswordAlgorithm::Md5.to_value();
    [a, b, c, d, e, f, g, h]
};

/// Number and length of the parameters, of which there are none.
const ENTRY_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_read_back_as_written_and_nothing_else_reads() {
        for algorithm in [PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256] {
            assert_eq!(PasswordAlgorithm::parse(&algorithm.to_value()), Some(algorithm));
        }
        for value in
            [&[][..], &[0, 2], &[0, 2, 0], &[0, 3, 0, 0], &[0, 0, 0, 0], &[0, 2, 0, 4, 1, 2, 3, 4], &[1; 4]]
        {
            assert_eq!(PasswordAlgorithm::parse(value), None, "{value:?}");
        }
    }
}
