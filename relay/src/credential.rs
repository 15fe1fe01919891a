//! Makes credentials of every kind, for trying things out and for scripts: one JSON object on stdout.

use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use farcall_proto::turn_credentials::{AuthSecret, UnixTime};
use rand::TryRng;
use rand::rngs::SysRng;
use serde_json::{Value, json};

use crate::auth::jwt::{self, Claims};
use crate::auth::{AccessToken, JwtSecret, StaticUser};
use crate::clock;
use crate::config;
use crate::policy::Limits;

/// Which kind.
#[derive(Debug, clap::Subcommand)]
pub enum Kind {
    /// A user for --user, with a password from the system's randomness
    Static {
        /// Its name
        #[arg(long)]
        name: String,
    },
    /// What --auth-secret takes: user `expiry:session`
    Ephemeral {
        /// The relay's secret
        #[arg(long, env = "FARCALL_RELAY_AUTH_SECRET", hide_env_values = true)]
        auth_secret: String,
        /// For whom
        #[arg(long, default_value = "")]
        session: String,
        /// Seconds
        #[arg(long, default_value_t = 3600)]
        lifetime: u64,
    },
    /// What --jwt-key and --jwt-secret take: a signed token and its password
    Jwt {
        /// KID:ALGORITHM:KEY as for the relay, but ES256 and EdDSA with @FILE of the private key
        #[arg(long, env = "FARCALL_RELAY_JWT_KEY", hide_env_values = true)]
        jwt_key: String,
        /// With which passwords are made
        #[arg(long, env = "FARCALL_RELAY_JWT_SECRET", hide_env_values = true)]
        jwt_secret: String,
        /// For whom: `sub`
        #[arg(long)]
        subject: String,
        /// Seconds
        #[arg(long, default_value_t = 3600)]
        lifetime: u64,
        /// `aud`
        #[arg(long)]
        audience: Option<String>,
        /// The only realm
        #[arg(long)]
        realm: Option<String>,
        /// What the user may use, in JSON as in the README
        #[arg(long)]
        limits: Option<String>,
    },
    /// What --oauth-key takes: a sealed token and the key inside
    Oauth {
        /// KID:BASE64 as for the relay
        #[arg(long, env = "FARCALL_RELAY_OAUTH_KEY", hide_env_values = true)]
        oauth_key: String,
        /// For which server: its --oauth-server, or else its realm
        #[arg(long, env = "FARCALL_RELAY_OAUTH_SERVER", default_value = "farcall")]
        oauth_server: String,
        /// Seconds
        #[arg(long, default_value_t = 3600)]
        lifetime: u64,
    },
}

/// Makes one.
pub fn make(kind: Kind) -> anyhow::Result<Value> {
    let now = clock::unix_time();
    match kind {
        Kind::Static { name } => {
            let password = STANDARD.encode(random::<24>()?);
            let user = StaticUser::prepared(&name, &password).context("name")?;
            Ok(
                json!({ "username": user.name, "password": user.password, "user": format!("{name}:{password}") }),
            )
        }
        Kind::Ephemeral { auth_secret, session, lifetime } => {
            let made = AuthSecret::new(auth_secret)?.mint(after(now, lifetime), &session);
            Ok(json!({ "username": made.username, "password": made.password }))
        }
        Kind::Jwt { jwt_key, jwt_secret, subject, lifetime, audience, realm, limits } => {
            let limits: Option<Limits> =
                limits.map(|text| serde_json::from_str(&text)).transpose().context("limits")?;
            let exp = after(now, lifetime).0;
            let claims =
                Claims { sub: subject, exp, nbf: None, aud: audience.map(Value::String), realm, limits };
            let (kid, algorithm, key) =
                config::jwt_key_parts(&jwt_key).map_err(|error| anyhow::anyhow!("jwt-key: {error}"))?;
            let token = jwt::mint(&kid, algorithm, &key, &claims)?;
            if token.len() > MAX_USERNAME_BYTES {
                bail!("the token has {} bytes, and a user name {MAX_USERNAME_BYTES} at most", token.len());
            }
            let password = JwtSecret::new(&jwt_secret).context("jwt-secret is empty")?.password(&token);
            Ok(json!({ "username": token, "password": password }))
        }
        Kind::Oauth { oauth_key, oauth_server, lifetime } => {
            let key = config::oauth_key(&oauth_key).map_err(|error| anyhow::anyhow!("oauth-key: {error}"))?;
            let mac_key = random::<20>()?.to_vec();
            let token = AccessToken::made_at(now, Duration::from_secs(lifetime), mac_key.clone());
            let sealed = token.seal(&key, &oauth_server, random()?).context("lifetime")?;
            let (access_token, mac_key) = (STANDARD.encode(sealed), STANDARD.encode(mac_key));
            Ok(
                json!({ "username": key.kid, "access-token": access_token, "mac-key": mac_key, "server": oauth_server }),
            )
        }
    }
}

fn after(now: UnixTime, lifetime: u64) -> UnixTime {
    now.after(Duration::from_secs(lifetime))
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).context("the system gives no random numbers")?;
    Ok(bytes)
}

/// RFC 8489, section 14.3.
const MAX_USERNAME_BYTES: usize = 508;
