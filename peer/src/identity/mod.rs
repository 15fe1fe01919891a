//! Who the other side is, by something that a signaling server cannot forge.
//!
//! A peer may have a lasting [`Identity`], a key pair. Before each description it sends an assertion: a signature
//! over the fingerprints of its DTLS certificates and both session ids. The receiver compares the fingerprints with
//! the certificate that DTLS really saw, and its [`Trust`] says which keys are acceptable. Two who meet for the first
//! time may share a [`Code`] instead, from which both derive a key that nobody else has; it then signs as the key pair
//! would. Files are in the folder that [`Folder`] finds.

mod assertion;
mod code;
mod folder;
mod introduction;
mod key;
mod known;
mod trust;

pub(crate) use self::assertion::{Algorithm, Assertion, Certificates, Claim, MOST_FINGERPRINTS};
pub use self::code::{Code, CodeError};
pub use self::folder::Folder;
pub(crate) use self::introduction::{Introduction, Outcome, Step};
pub use self::key::{Identity, KeyError, PublicKey};
pub use self::known::{KnownPeer, KnownPeers};
pub(crate) use self::trust::Judge;
pub use self::trust::{Standing, Trust};
