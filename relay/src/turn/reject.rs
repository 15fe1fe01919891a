//! Why a request was refused: an answer for the client, not a failure of ours.

use crate::stun::ErrorCode;

/// One reason each, and what it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum Reject {
    /// No room here, but there may be elsewhere.
    #[error("try another server")]
    TryAlternate,
    /// An attribute is missing, malformed, or at odds with another.
    #[error("the request makes no sense")]
    BadRequest,
    /// Who asks is not known.
    #[error("not authenticated")]
    Unauthenticated,
    /// That peer is out of bounds.
    #[error("the peer is out of bounds")]
    Forbidden,
    /// There are attributes this server must know and does not.
    #[error("unknown comprehension-required attributes")]
    UnknownAttributes,
    /// There is an allocation where there should be none, or none where there should be one.
    #[error("5-tuple and allocation do not match")]
    AllocationMismatch,
    /// The nonce is not, or no longer, good.
    #[error("stale nonce")]
    StaleNonce,
    /// No relayed addresses of that family here.
    #[error("address family not supported")]
    AddressFamilyNotSupported,
    /// Good credentials, but not those that made the allocation.
    #[error("another user's allocation")]
    WrongCredentials,
    /// Relays carry UDP, and TCP where that is wanted.
    #[error("transport protocol not supported")]
    UnsupportedTransport,
    /// A peer of the other family than the relayed address.
    #[error("the peer is of another address family")]
    PeerAddressFamilyMismatch,
    /// There is one to that peer.
    #[error("there is a connection to that peer")]
    ConnectionExists,
    /// The peer did not take it, or not in time.
    #[error("no connection to the peer")]
    ConnectionFailed,
    /// The user holds as many allocations as it may.
    #[error("allocation quota reached")]
    QuotaReached,
    /// Whoever knows users could not say whose the request is.
    #[error("try again later")]
    Unavailable,
    /// No port, no socket, or no more room in the allocation.
    #[error("insufficient capacity")]
    InsufficientCapacity,
}

impl Reject {
    /// What ERROR-CODE says.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::TryAlternate => ErrorCode::TRY_ALTERNATE,
            Self::BadRequest => ErrorCode::BAD_REQUEST,
            Self::Unauthenticated => ErrorCode::UNAUTHENTICATED,
            Self::Forbidden => ErrorCode::FORBIDDEN,
            Self::UnknownAttributes => ErrorCode::UNKNOWN_ATTRIBUTE,
            Self::AllocationMismatch => ErrorCode::ALLOCATION_MISMATCH,
            Self::StaleNonce => ErrorCode::STALE_NONCE,
            Self::AddressFamilyNotSupported => ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED,
            Self::WrongCredentials => ErrorCode::WRONG_CREDENTIALS,
            Self::UnsupportedTransport => ErrorCode::UNSUPPORTED_TRANSPORT_PROTOCOL,
            Self::PeerAddressFamilyMismatch => ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH,
            Self::ConnectionExists => ErrorCode::CONNECTION_ALREADY_EXISTS,
            Self::ConnectionFailed => ErrorCode::CONNECTION_TIMEOUT_OR_FAILURE,
            Self::QuotaReached => ErrorCode::ALLOCATION_QUOTA_REACHED,
            Self::Unavailable => ErrorCode::SERVER_ERROR,
            Self::InsufficientCapacity => ErrorCode::INSUFFICIENT_CAPACITY,
        }
    }
}
