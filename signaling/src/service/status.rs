//! What goes wrong, as gRPC says it: a code, a reason for programs, a message for people, and details.

use std::collections::HashMap;
use std::time::Duration;

use farcall_proto::reason as text;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::backplane::Failure;
use crate::limits::Excess;
use crate::room::Refusal;
use crate::tokens::Refused;

/// Why a call fails or a stream ends badly.
#[derive(Debug)]
pub(crate) enum Problem {
    BadFields(Vec<FieldViolation>),
    Token(Refused),
    Exceeded(Excess),
    RoomNotFound,
    Draining,
    Refused(Refusal),
    Superseded,
    /// The sweeper says why: it asks the store all the time.
    Unavailable,
}

/// Every reason there is, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A field breaks a rule.
    BadField,
    /// The room is full.
    RoomFull,
    /// A receiver's log is full.
    LogFull,
    /// The room is not there, and the token does not let its bearer make it.
    MayNotCreate,
    /// The server is full.
    ServerFull,
    /// A newer stream took over.
    SessionSuperseded,
    /// No such session.
    SessionNotFound,
    /// Not this session's secret.
    BadResumeSecret,
    /// No good token.
    BadToken,
    /// A token that was good once.
    TokenExpired,
    /// A token that is good for something else.
    NotGranted,
    /// More than there is for one.
    LimitExceeded,
    /// No such room.
    RoomNotFound,
    /// A frame is missing.
    ClientSeqGap,
    /// The server is going away.
    Draining,
    /// The store is away.
    BackplaneUnavailable,
}

impl Reason {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 16] = [
        Self::BadField,
        Self::RoomFull,
        Self::LogFull,
        Self::MayNotCreate,
        Self::ServerFull,
        Self::SessionSuperseded,
        Self::SessionNotFound,
        Self::BadResumeSecret,
        Self::BadToken,
        Self::TokenExpired,
        Self::NotGranted,
        Self::LimitExceeded,
        Self::RoomNotFound,
        Self::ClientSeqGap,
        Self::Draining,
        Self::BackplaneUnavailable,
    ];

    /// As in `google.rpc.ErrorInfo`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadField => text::BAD_FIELD,
            Self::RoomFull => text::ROOM_FULL,
            Self::LogFull => text::LOG_FULL,
            Self::MayNotCreate => text::MAY_NOT_CREATE,
            Self::ServerFull => text::SERVER_FULL,
            Self::SessionSuperseded => text::SESSION_SUPERSEDED,
            Self::SessionNotFound => text::SESSION_NOT_FOUND,
            Self::BadResumeSecret => text::BAD_RESUME_SECRET,
            Self::BadToken => text::BAD_TOKEN,
            Self::TokenExpired => text::TOKEN_EXPIRED,
            Self::NotGranted => text::NOT_GRANTED,
            Self::LimitExceeded => text::LIMIT_EXCEEDED,
            Self::RoomNotFound => text::ROOM_NOT_FOUND,
            Self::ClientSeqGap => text::CLIENT_SEQ_GAP,
            Self::Draining => text::DRAINING,
            Self::BackplaneUnavailable => text::BACKPLANE_UNAVAILABLE,
        }
    }

    fn code(self) -> Code {
        match self {
            Self::BadField => Code::InvalidArgument,
            Self::RoomFull | Self::LogFull | Self::ServerFull | Self::LimitExceeded => {
                Code::ResourceExhausted
            }
            Self::MayNotCreate | Self::NotGranted => Code::PermissionDenied,
            Self::SessionSuperseded => Code::Aborted,
            Self::SessionNotFound | Self::RoomNotFound => Code::NotFound,
            Self::BadResumeSecret | Self::BadToken | Self::TokenExpired => Code::Unauthenticated,
            Self::ClientSeqGap => Code::FailedPrecondition,
            Self::Draining | Self::BackplaneUnavailable => Code::Unavailable,
        }
    }

    /// When to try the same again, if that can help.
    fn retry_after(self) -> Option<Duration> {
        match self {
            Self::LogFull => Some(Duration::from_millis(500)),
            Self::Draining | Self::BackplaneUnavailable => Some(Duration::from_secs(1)),
            Self::ServerFull => Some(Duration::from_secs(10)),
            Self::BadField
            | Self::RoomFull
            | Self::MayNotCreate
            | Self::SessionSuperseded
            | Self::SessionNotFound
            | Self::BadResumeSecret
            | Self::BadToken
            | Self::TokenExpired
            | Self::NotGranted
            | Self::RoomNotFound
            // It says itself when.
            | Self::LimitExceeded
            | Self::ClientSeqGap => None,
        }
    }
}

impl Problem {
    /// Says in which field a client told of frames that it cannot have.
    pub(crate) fn about_seq(self, field: &str) -> Self {
        let Self::Refused(refusal @ Refusal::BeyondTheLog { .. }) = self else { return self };
        Self::BadFields(vec![FieldViolation::new(field, refusal.to_string())])
    }

    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::BadFields(_) | Self::Refused(Refusal::BeyondTheLog { .. }) => Reason::BadField,
            Self::Token(Refused::Bad) => Reason::BadToken,
            Self::Token(Refused::Expired) => Reason::TokenExpired,
            Self::Token(Refused::NotGranted) => Reason::NotGranted,
            Self::Exceeded(_) => Reason::LimitExceeded,
            Self::RoomNotFound => Reason::RoomNotFound,
            Self::Draining => Reason::Draining,
            Self::Superseded => Reason::SessionSuperseded,
            Self::Unavailable => Reason::BackplaneUnavailable,
            Self::Refused(Refusal::RoomFull { .. }) => Reason::RoomFull,
            Self::Refused(Refusal::MayNotCreate) => Reason::MayNotCreate,
            Self::Refused(Refusal::ServerFull) => Reason::ServerFull,
            Self::Refused(Refusal::LogFull { .. }) => Reason::LogFull,
            Self::Refused(Refusal::SessionNotFound) => Reason::SessionNotFound,
            Self::Refused(Refusal::BadResumeSecret) => Reason::BadResumeSecret,
            Self::Refused(Refusal::ClientSeqGap { .. }) => Reason::ClientSeqGap,
        }
    }

    pub(crate) fn to_status(&self) -> Status {
        let reason = self.reason();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason.as_str(), text::DOMAIN, HashMap::new());
        if let Some(delay) = reason.retry_after() {
            details.set_retry_info(Some(delay));
        }
        let message = self.describe(&mut details);
        Status::with_error_details(reason.code(), message, details)
    }

    /// Adds the details that are this problem's own, and says it to people.
    fn describe(&self, details: &mut ErrorDetails) -> String {
        match self {
            Self::BadFields(fields) => {
                details.set_bad_request(fields.clone());
                let said = fields.iter().map(|field| format!("{} {}", field.field, field.description));
                said.collect::<Vec<_>>().join("; ")
            }
            Self::Token(refused) => refused.to_string(),
            Self::Exceeded(excess) => {
                details.set_retry_info(Some(excess.retry_after));
                details.add_quota_failure_violation(excess.quota.as_str(), excess.to_string());
                excess.to_string()
            }
            Self::RoomNotFound => "nobody is in this room".into(),
            Self::Draining => "the server is going away".into(),
            Self::Superseded => "a newer stream took this session over".into(),
            Self::Unavailable => "the session store cannot be reached".into(),
            Self::Refused(refusal) => {
                match refusal {
                    Refusal::RoomFull { .. } => {
                        details.add_quota_failure_violation("room", refusal.to_string());
                    }
                    Refusal::ServerFull => {
                        details.add_quota_failure_violation("server", refusal.to_string());
                    }
                    Refusal::LogFull { .. } => {
                        details.add_quota_failure_violation("log", refusal.to_string());
                    }
                    Refusal::BeyondTheLog { .. } => {
                        details.add_bad_request_violation("ack", refusal.to_string());
                    }
                    Refusal::MayNotCreate
                    | Refusal::SessionNotFound
                    | Refusal::BadResumeSecret
                    | Refusal::ClientSeqGap { .. } => {}
                }
                refusal.to_string()
            }
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => Self::Refused(refusal),
            Failure::Unavailable(_) => Self::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_names_its_reason_in_our_domain() {
        let status = Problem::Refused(Refusal::RoomFull { limit: 2 }).to_status();
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("ROOM_FULL", "farcall"));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_quota_failure().unwrap().violations.len(), 1);
    }

    #[test]
    fn a_full_log_says_when_to_try_again_and_a_full_room_does_not() {
        let full_log = Problem::Refused(Refusal::LogFull { client_seq: 3 }).to_status();
        assert!(full_log.get_details_retry_info().unwrap().retry_delay.is_some());
        let full_room = Problem::Refused(Refusal::RoomFull { limit: 2 }).to_status();
        assert!(full_room.get_details_retry_info().is_none());
    }

    #[test]
    fn every_broken_field_is_named() {
        let status = Problem::BadFields(vec![
            FieldViolation::new("room", "is empty"),
            FieldViolation::new("display_name", "is too long"),
        ])
        .to_status();
        let fields = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(fields.len(), 2);
        assert_eq!(status.message(), "room is empty; display_name is too long");
    }

    #[test]
    fn all_holds_every_reason_once_and_in_order() {
        assert!(Reason::ALL.is_sorted_by(|a, b| a < b));
        assert_eq!(*Reason::ALL.last().unwrap() as usize, Reason::ALL.len() - 1);
    }
}
