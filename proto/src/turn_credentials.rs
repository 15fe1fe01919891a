//! Ephemeral TURN credentials, the form that every TURN server understands.
//!
//! The username is `expiry:session` with the expiry in Unix seconds, the password is
//! `base64(HMAC-SHA1(secret, username))`. Whoever knows the secret can check them without having seen them made
//! (draft-uberti-behave-turn-rest-00, section 2.2).

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use subtle::ConstantTimeEq;

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// This much later, or the end of time.
    #[must_use]
    pub fn after(self, lifetime: Duration) -> Self {
        Self(self.0.saturating_add(lifetime.as_secs()))
    }
}

/// What signaling and relay share so that one can make credentials and the other check them.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthSecret(String);

impl AuthSecret {
    /// Refuses an empty secret, under which everybody could make credentials.
    pub fn new(secret: impl Into<String>) -> Result<Self, EmptySecret> {
        let secret = secret.into();
        if secret.is_empty() { Err(EmptySecret) } else { Ok(Self(secret)) }
    }

    /// Makes credentials for `session` that are good until `expires_at`.
    #[must_use]
    pub fn mint(&self, expires_at: UnixTime, session: &str) -> TurnCredentials {
        let username = format!("{}:{session}", expires_at.0);
        let password = self.password(&username);
        TurnCredentials { username, password }
    }

    /// The password that belongs to `username` under this secret, whether or not it has expired.
    ///
    /// A TURN server needs it because the long-term credential mechanism never shows it the client's password, only
    /// a message integrity computed with it.
    #[must_use]
    pub fn password(&self, username: &str) -> String {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let mut mac = Hmac::<Sha1>::new_from_slice(self.0.as_bytes()).expect("a key of any length");
        mac.update(username.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }

    /// Checks a username with its password and returns what the username says.
    pub fn verify<'a>(
        &self,
        now: UnixTime,
        username: &'a str,
        password: &str,
    ) -> Result<EphemeralUsername<'a>, CredentialError> {
        let parsed = EphemeralUsername::parse(username)?;
        if !bool::from(self.password(username).as_bytes().ct_eq(password.as_bytes())) {
            return Err(CredentialError::WrongPassword);
        }
        parsed.check(now)?;
        Ok(parsed)
    }
}

impl fmt::Debug for AuthSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthSecret(redacted)")
    }
}

/// An empty secret protects nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the TURN secret is empty")]
pub struct EmptySecret;

/// A username and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnCredentials {
    /// `expiry:session`.
    pub username: String,
    /// `base64(HMAC-SHA1(secret, username))`.
    pub password: String,
}

impl fmt::Debug for TurnCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnCredentials")
            .field("username", &self.username)
            .field("password", &"redacted")
            .finish()
    }
}

/// What an ephemeral username says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EphemeralUsername<'a> {
    /// No new allocation from this moment on. Allocations made before go on.
    pub expires_at: UnixTime,
    /// Whom it was made for; empty if the username is an expiry alone.
    pub session: &'a str,
}

impl<'a> EphemeralUsername<'a> {
    /// Reads `expiry` or `expiry:session`.
    pub fn parse(username: &'a str) -> Result<Self, CredentialError> {
        let (expiry, session) = username.split_once(':').unwrap_or((username, ""));
        // `u64::from_str` would also take a plus sign.
        if expiry.is_empty() || !expiry.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(CredentialError::NotEphemeral);
        }
        let expires_at = expiry.parse().map_err(|_| CredentialError::NotEphemeral)?;
        Ok(Self { expires_at: UnixTime(expires_at), session })
    }

    /// Whether a new allocation may still be made.
    pub fn check(&self, now: UnixTime) -> Result<(), CredentialError> {
        if now < self.expires_at { Ok(()) } else { Err(CredentialError::Expired) }
    }
}

/// Why a credential is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The username does not begin with an expiry.
    #[error("the username does not begin with an expiry")]
    NotEphemeral,
    /// The expiry has passed.
    #[error("the credential has expired")]
    Expired,
    /// The password is another one.
    #[error("the password does not belong to the username")]
    WrongPassword,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret() -> AuthSecret {
        AuthSecret::new("north").unwrap()
    }

    /// Computed outside of this program:
    /// `printf 1700000000:alice | openssl dgst -sha1 -hmac north -binary | base64`.
    #[test]
    fn a_minted_credential_equals_one_computed_by_hand() {
        let credentials = secret().mint(UnixTime(1_700_000_000), "alice");
        assert_eq!(credentials.username, "1700000000:alice");
        assert_eq!(credentials.password, "Cd/49soE35ICqcJF/bCTn8Z4OyE=");
    }

    #[test]
    fn a_credential_is_good_up_to_its_expiry_and_not_at_it() {
        let made = secret().mint(UnixTime(100), "alice");
        let at =
            |now| secret().verify(UnixTime(now), &made.username, &made.password).map(|name| name.session);
        assert_eq!(at(99), Ok("alice"));
        assert_eq!(at(100), Err(CredentialError::Expired));
    }

    #[test]
    fn another_secret_or_another_username_is_a_wrong_password() {
        let made = AuthSecret::new("south").unwrap().mint(UnixTime(100), "alice");
        assert_eq!(
            secret().verify(UnixTime(1), &made.username, &made.password),
            Err(CredentialError::WrongPassword)
        );
        let made = secret().mint(UnixTime(100), "alice");
        assert_eq!(
            secret().verify(UnixTime(1), "101:alice", &made.password),
            Err(CredentialError::WrongPassword)
        );
    }

    #[test]
    fn an_expired_credential_with_a_wrong_password_is_a_wrong_password() {
        assert_eq!(secret().verify(UnixTime(200), "100:alice", "guess"), Err(CredentialError::WrongPassword));
    }

    #[test]
    fn a_username_without_a_session_is_an_expiry_alone() {
        let name = EphemeralUsername::parse("1700000000").unwrap();
        assert_eq!((name.expires_at, name.session), (UnixTime(1_700_000_000), ""));
    }

    #[test]
    fn a_username_without_an_expiry_is_not_ephemeral() {
        for username in
            ["alice", "", ":alice", "+5:alice", "-5:alice", "99999999999999999999:alice", "1 :alice"]
        {
            assert_eq!(EphemeralUsername::parse(username), Err(CredentialError::NotEphemeral), "{username}");
        }
    }

    #[test]
    fn nothing_secret_shows_in_debug_output() {
        let shown = format!("{:?} {:?}", secret(), secret().mint(UnixTime(1), "alice"));
        assert!(!shown.contains("north") && !shown.contains(&secret().password("1:alice")), "{shown}");
    }

    #[test]
    fn an_empty_secret_is_refused() {
        assert_eq!(AuthSecret::new(""), Err(EmptySecret));
    }

    proptest! {
        #[test]
        fn whatever_is_minted_verifies_and_names_its_session(session in "\\PC*", expiry in 1u64.., key in "\\PC+") {
            let secret = AuthSecret::new(key).unwrap();
            let made = secret.mint(UnixTime(expiry), &session);
            let name = secret.verify(UnixTime(expiry - 1), &made.username, &made.password).unwrap();
            prop_assert_eq!(name, EphemeralUsername { expires_at: UnixTime(expiry), session: &session });
        }
    }
}
