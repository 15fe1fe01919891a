//! Users whom only somebody else knows: what is asked about them, what comes of it, and how long that is remembered.
//!
//! Nothing here asks. Whoever drives the state machine does, and brings the answer whenever it comes.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::user::{Credential, KeySource, User};
use crate::policy::Limits;
use crate::stun::{IntegrityKey, PasswordAlgorithm};

/// Of whom an answer speaks. The client's address is part of it, since a name may be good from one place only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Query {
    /// Where the name should be good.
    pub realm: Arc<str>,
    /// As in USERNAME.
    pub name: Arc<str>,
    /// From where it comes.
    pub client: IpAddr,
}

/// A question, with what else is known about who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookUp {
    /// Of whom.
    pub query: Query,
    /// From where exactly.
    pub client: SocketAddr,
    /// By what: `udp`, `tcp`, `tls` or `dtls`.
    pub transport: &'static str,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is such a user.
    Known(Arc<Profile>),
    /// There is none.
    Unknown,
    /// Nobody could say.
    Failed,
}

/// What is known of a user.
#[derive(Clone, PartialEq, Eq)]
pub struct Profile {
    /// What its messages are signed with.
    pub proof: Proof,
    /// Whose quota and limits it counts against, if not its own.
    pub account: Option<Arc<str>>,
    /// What it may use, where that differs from everybody's.
    pub limits: Limits,
    /// How long to believe all that.
    pub ttl: Duration,
}

/// A password, or what has already been made of one.
#[derive(Clone, PartialEq, Eq)]
pub enum Proof {
    /// In clear, prepared.
    Password(String),
    /// The key under one algorithm, which is then the only one that the user can use.
    Key(PasswordAlgorithm, IntegrityKey),
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(redacted)")
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile")
            .field("account", &self.account)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Profile {
    fn credential(&self, query: &Query, algorithm: PasswordAlgorithm) -> Option<Credential> {
        let key = match &self.proof {
            Proof::Password(password) => {
                IntegrityKey::long_term(algorithm, &query.name, &query.realm, password)
            }
            Proof::Key(of, key) if *of == algorithm => key.clone(),
            Proof::Key(..) => return None,
        };
        let account = self.account.clone().unwrap_or_else(|| Arc::clone(&query.name));
        Some(Credential {
            user: User { name: Arc::clone(&query.name), account },
            key,
            source: KeySource::Password(algorithm),
            expires_at: None,
            limits: (self.limits != Limits::default()).then(|| Box::new(self.limits)),
        })
    }
}

impl Answer {
    /// How long it is remembered. Never not at all: whoever waited for it must find it.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        match self {
            Self::Known(profile) => profile.ttl.clamp(Duration::from_secs(1), MAX_TTL),
            Self::Unknown => UNKNOWN_TTL,
            Self::Failed => FAILED_TTL,
        }
    }
}

/// What was found in memory.
#[derive(Debug)]
pub(super) enum Found {
    Credential(Option<Credential>),
    Failed,
    /// One has to ask.
    Nothing,
}

/// Answers, each until its time is over. Bounded: what is forgotten is asked for again.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers(HashMap<Query, (Answer, Instant)>);

impl Answers {
    pub(super) fn learn(&mut self, now: Instant, query: Query, answer: Answer) {
        if self.0.len() >= MAX_ANSWERS {
            self.0.retain(|_, (_, until)| *until > now);
        }
        if self.0.len() >= MAX_ANSWERS {
            self.0.clear();
        }
        let until = now + answer.ttl();
        self.0.insert(query, (answer, until));
    }

    pub(super) fn find(&self, now: Instant, query: &Query, algorithm: PasswordAlgorithm) -> Found {
        match self.0.get(query).filter(|(_, until)| *until > now) {
            None => Found::Nothing,
            Some((Answer::Known(profile), _)) => Found::Credential(profile.credential(query, algorithm)),
            Some((Answer::Unknown, _)) => Found::Credential(None),
            Some((Answer::Failed, _)) => Found::Failed,
        }
    }
}

const MAX_TTL: Duration = Duration::from_secs(3600);
const UNKNOWN_TTL: Duration = Duration::from_secs(10);
const FAILED_TTL: Duration = Duration::from_secs(1);
const MAX_ANSWERS: usize = 4096;
