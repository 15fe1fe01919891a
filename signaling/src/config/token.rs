//! `farcall-signaling token`: what is to be in a token, and what signs it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use farcall_proto::turn_credentials::UnixTime;

use super::parse;
use crate::tokens::{self, Claims, Grant, OneOrMany};

/// The flags of `farcall-signaling token`.
#[derive(Clone, Args)]
pub struct TokenArgs {
    /// File with what signs: a private key in PEM (Ed25519 or P-256), or a shared secret.
    #[arg(long, value_name = "FILE", required_unless_present = "secret", conflicts_with = "secret")]
    key: Option<PathBuf>,
    /// A shared secret of at least 32 bytes.
    #[arg(long, env = "FARCALL_SIGNALING_TOKEN_SECRET", value_name = "SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// What the servers call the key: the name of its file without what follows the dot, or its name in a JWK set.
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// Room that the token opens; `*` stands for any characters; may be repeated.
    #[arg(long, value_name = "NAME")]
    room: Vec<String>,
    /// Who the bearer is, which the others are shown; at most 64 characters.
    #[arg(long, value_name = "NAME", default_value = "")]
    identity: String,
    /// How long the token is good.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    ttl: Duration,
    /// What the bearer may do; may be repeated [default: join, create and relay].
    #[arg(long, value_name = "GRANT", value_enum)]
    grant: Vec<Grant>,
    /// How many streams the bearer may have at once.
    #[arg(long, value_name = "N")]
    max_sessions: Option<u32>,
    /// Whom the token is for; may be repeated.
    #[arg(long, value_name = "NAME")]
    audience: Vec<String>,
    /// Who made the token.
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
}

impl TokenArgs {
    /// Makes the token, or says why not.
    pub fn mint(self, now: UnixTime) -> Result<String, String> {
        let key = match (&self.key, &self.secret) {
            (Some(path), _) => std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?,
            (None, secret) => secret.clone().unwrap_or_default().into_bytes(),
        };
        let grants =
            if self.grant.is_empty() { vec![Grant::Join, Grant::Create, Grant::Relay] } else { self.grant };
        if self.room.is_empty() && grants.contains(&Grant::Join) {
            return Err("room: a token to join with needs one; `*` is all of them".into());
        }
        if self.identity.chars().count() > farcall_proto::limits::MAX_ID_CHARS {
            return Err("identity: is longer than 64 characters".into());
        }
        let claims = Claims {
            sub: self.identity,
            room: OneOrMany::from(self.room),
            grants,
            max_sessions: self.max_sessions,
            exp: now.after(self.ttl).0,
            nbf: Some(now.0),
            aud: OneOrMany::from(self.audience),
            iss: self.issuer,
        };
        tokens::mint(&key, self.kid, &claims).map_err(|rule| format!("key: {rule}"))
    }
}

impl std::fmt::Debug for TokenArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenArgs").field("identity", &self.identity).finish_non_exhaustive()
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse::duration(text).ok_or_else(|| "no duration, such as 120s, 10m or 1h".to_owned())
}
