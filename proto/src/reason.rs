//! `google.rpc.ErrorInfo.reason` of every error the rendezvous service answers with: what a program matches on,
//! while the message is for people.

/// `google.rpc.ErrorInfo.domain` of all of them.
pub const DOMAIN: &str = "farcall";

/// `INVALID_ARGUMENT`: a field breaks a rule; `google.rpc.BadRequest` says which.
pub const BAD_FIELD: &str = "BAD_FIELD";
/// `RESOURCE_EXHAUSTED`: the room holds as many participants as it may.
pub const ROOM_FULL: &str = "ROOM_FULL";
/// `RESOURCE_EXHAUSTED`: a receiver's log is full; `google.rpc.RetryInfo` says when to repeat the frame.
pub const LOG_FULL: &str = "LOG_FULL";
/// `PERMISSION_DENIED`: nobody is in the room, and the token does not let its bearer open one.
pub const MAY_NOT_CREATE: &str = "MAY_NOT_CREATE";
/// `RESOURCE_EXHAUSTED`: the server holds as many rooms or sessions as it may.
pub const SERVER_FULL: &str = "SERVER_FULL";
/// `ABORTED`: a newer stream took this session over.
pub const SESSION_SUPERSEDED: &str = "SESSION_SUPERSEDED";
/// `NOT_FOUND`: there is no such session, or no longer.
pub const SESSION_NOT_FOUND: &str = "SESSION_NOT_FOUND";
/// `UNAUTHENTICATED`: the secret is not this session's.
pub const BAD_RESUME_SECRET: &str = "BAD_RESUME_SECRET";
/// `UNAUTHENTICATED`: the bearer token is missing, malformed, not good yet, or of an unknown key.
pub const BAD_TOKEN: &str = "BAD_TOKEN";
/// `UNAUTHENTICATED`: the bearer token was good once; the same call with a new one may succeed.
pub const TOKEN_EXPIRED: &str = "TOKEN_EXPIRED";
/// `PERMISSION_DENIED`: the bearer token is good, but neither for this room nor for this call.
pub const NOT_GRANTED: &str = "NOT_GRANTED";
/// `RESOURCE_EXHAUSTED`: more than one address, session, identity or room may ask for; `google.rpc.QuotaFailure` says
/// of what, `google.rpc.RetryInfo` when to try again.
pub const LIMIT_EXCEEDED: &str = "LIMIT_EXCEEDED";
/// `NOT_FOUND`: nobody is in this room.
pub const ROOM_NOT_FOUND: &str = "ROOM_NOT_FOUND";
/// `FAILED_PRECONDITION`: a frame came before the one that precedes it.
pub const CLIENT_SEQ_GAP: &str = "CLIENT_SEQ_GAP";
/// `UNAVAILABLE`: the server is going away; `google.rpc.RetryInfo` says when to try again.
pub const DRAINING: &str = "DRAINING";
/// `UNAVAILABLE`: the store that holds the sessions cannot be reached; `google.rpc.RetryInfo` says when to try again.
pub const BACKPLANE_UNAVAILABLE: &str = "BACKPLANE_UNAVAILABLE";
