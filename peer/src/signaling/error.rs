//! What a gRPC status of the signaling server means for us.

use std::time::Duration;

use farcall_proto::reason;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::failure::{Failure, Reason};

/// A refused call, by what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refusal {
    pub(super) kind: RefusalKind,
    /// When the server wants to hear of us again.
    pub(super) retry_after: Option<Duration>,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefusalKind {
    /// Try again later.
    Unavailable,
    /// The room holds as many as it may.
    RoomFull,
    /// The bearer token is not accepted.
    BadToken,
    /// A frame or a field breaks a rule.
    BadField,
    /// The server does not know the session; joining makes a new one.
    SessionUnknown,
    /// A newer stream took the session over.
    Superseded,
    /// The receiver's log is full.
    LogFull,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let reason = details
            .error_info()
            .filter(|info| info.domain == reason::DOMAIN)
            .map_or("", |info| info.reason.as_str());
        let kind = match (reason, status.code()) {
            (reason::ROOM_FULL, _) => RefusalKind::RoomFull,
            (reason::BAD_TOKEN | reason::TOKEN_EXPIRED | reason::NOT_GRANTED | reason::MAY_NOT_CREATE, _) => {
                RefusalKind::BadToken
            }
            (reason::BAD_FIELD, _) => RefusalKind::BadField,
            (reason::SESSION_NOT_FOUND | reason::BAD_RESUME_SECRET | reason::CLIENT_SEQ_GAP, _) => {
                RefusalKind::SessionUnknown
            }
            (reason::SESSION_SUPERSEDED, _) => RefusalKind::Superseded,
            (reason::LOG_FULL, _) => RefusalKind::LogFull,
            // A proxy in between says no more than the code.
            ("", Code::Unauthenticated | Code::PermissionDenied) => RefusalKind::BadToken,
            ("", Code::InvalidArgument | Code::OutOfRange) => RefusalKind::BadField,
            (_, _) => RefusalKind::Unavailable,
        };
        let retry_after = details.retry_info().and_then(|info| info.retry_delay);
        Self { kind, retry_after, message: describe(&status) }
    }
}

impl Refusal {
    /// A call that took too long.
    pub(super) fn timed_out() -> Self {
        let message = "the server did not answer in time".to_owned();
        Self { kind: RefusalKind::Unavailable, retry_after: None, message }
    }

    /// The server broke the protocol.
    pub(super) fn protocol(message: &str) -> Self {
        Self { kind: RefusalKind::Unavailable, retry_after: None, message: message.to_owned() }
    }

    /// What it means when the first join is refused.
    pub(super) fn into_failure(self, server: &str) -> Failure {
        let (reason, message) = match self.kind {
            RefusalKind::RoomFull => (Reason::RoomFull, format!("the room is full: {self}")),
            RefusalKind::BadToken => {
                (Reason::BadToken, format!("{server} does not accept the token: {self}"))
            }
            RefusalKind::BadField => (Reason::BadUsage, self.to_string()),
            RefusalKind::Superseded => {
                (Reason::SessionLost, format!("another process took this session over: {self}"))
            }
            RefusalKind::Unavailable | RefusalKind::SessionUnknown | RefusalKind::LogFull => {
                (Reason::Unreachable, format!("cannot join through {server}: {self}"))
            }
        };
        Failure::new(reason, message)
    }
}

/// The message, or the causes behind it: tonic says no more than "transport error" by itself.
fn describe(status: &Status) -> String {
    let mut text = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if cause != "transport error" && !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    fn status(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, reason::DOMAIN, HashMap::new());
        Status::with_error_details(code, "text", details)
    }

    #[test]
    fn the_reason_counts_before_the_code() {
        let full = Refusal::from(status(Code::ResourceExhausted, reason::ROOM_FULL));
        assert_eq!((full.kind, full.into_failure("s").reason), (RefusalKind::RoomFull, Reason::RoomFull));
        let log = Refusal::from(status(Code::ResourceExhausted, reason::LOG_FULL));
        assert_eq!(log.kind, RefusalKind::LogFull);
    }

    #[test]
    fn a_reason_of_somebody_elses_domain_is_none_of_ours() {
        let details = ErrorDetails::with_error_info(reason::ROOM_FULL, "example.com", HashMap::new());
        let refusal = Refusal::from(Status::with_error_details(Code::ResourceExhausted, "text", details));
        assert_eq!(refusal.kind, RefusalKind::Unavailable);
    }

    #[test]
    fn a_bare_unauthenticated_is_a_bad_token() {
        let refusal = Refusal::from(Status::unauthenticated("who are you"));
        assert_eq!(refusal.into_failure("s").reason, Reason::BadToken);
    }

    #[test]
    fn the_server_says_when_to_come_back() {
        let mut details = ErrorDetails::new();
        details.set_error_info(reason::DRAINING, reason::DOMAIN, HashMap::new());
        details.set_retry_info(Some(Duration::from_secs(2)));
        let refusal = Refusal::from(Status::with_error_details(Code::Unavailable, "draining", details));
        assert_eq!(
            (refusal.kind, refusal.retry_after),
            (RefusalKind::Unavailable, Some(Duration::from_secs(2)))
        );
    }
}
