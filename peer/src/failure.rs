//! Why a peer stopped without having been asked to: a reason for programs, a message for people, an exit code.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// What a program matches on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The signaling server could not be reached when joining.
    Unreachable,
    /// The room holds as many participants as it may.
    RoomFull,
    /// The signaling server did not accept the bearer token.
    BadToken,
    /// No pair of candidates connected.
    IceFailed,
    /// A media file could not be read, or is no VP8 in IVF or Opus in Ogg.
    BadMedia,
    /// A flag, an address or a name is not acceptable.
    BadUsage,
    /// Another process took this session over, or an operator removed it.
    SessionLost,
    /// What should be sent is not there, cannot be read, or changed meanwhile.
    NoInput,
    /// Something is there already and may not be replaced.
    Exists,
    /// A file or folder cannot be written: no space, no permission.
    CannotWrite,
    /// What the other side sent is not acceptable: a name, a hash, a protocol.
    BadData,
    /// The other side ended it before it was complete.
    Cancelled,
    /// The other side does not allow it.
    Refused,
    /// The other side is not whom it should be, or the other way round.
    Untrusted,
    /// The code was wrong, and must not be used again.
    WrongCode,
    /// Anything else.
    Internal,
}

impl Reason {
    /// The exit code, where possible one of sysexits.h.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::BadUsage | Self::BadMedia => 64,
            Self::Unreachable => 69,
            Self::RoomFull => 75,
            Self::IceFailed => 76,
            Self::BadToken | Self::Refused | Self::Untrusted | Self::WrongCode => 77,
            Self::BadData => 65,
            Self::NoInput => 66,
            Self::Exists => 73,
            Self::CannotWrite => 74,
            Self::SessionLost | Self::Cancelled | Self::Internal => 1,
        }
    }
}

/// The end of a peer that was not wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// For programs.
    pub reason: Reason,
    /// For people: a lower-case fragment.
    pub message: String,
    /// What helps to find the cause, such as the candidates tried.
    pub details: Option<Value>,
}

impl Failure {
    /// A failure without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: None }
    }

    /// Adds what helps to find the cause.
    #[must_use]
    pub fn with_details(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<webrtc::error::Error> for Failure {
    fn from(error: webrtc::error::Error) -> Self {
        Self::new(Reason::Internal, error.to_string())
    }
}
