//! Who clients are: long-term credentials, static and ephemeral at once, in realms, and the nonces that go with them
//! (RFC 8489, section 9.2); access tokens (RFC 7635);
//! names that are JSON Web Tokens; users whom a webhook knows.
//!
//! Nothing here remembers a client: until somebody sends a nonce back, a stranger costs no memory.

mod access_token;
mod authenticator;
pub mod jwt;
mod lookup;
mod nonce;
pub mod opaque_string;
mod realm;
mod user;

pub use access_token::{AccessToken, KeyLength, OauthConfig, OauthKey};
pub use authenticator::{Authenticated, Authenticator, Challenge, Config, Ends, Refusal};
pub use jwt::{JwtAlgorithm, JwtConfig, JwtKey, JwtSecret};
pub use lookup::{Answer, LookUp, Profile, Proof, Query};
pub use nonce::{NONCE_LIFETIME, Nonce, NonceKey, NonceSecret, SecurityFeatures};
pub use realm::{ListenerMatch, RealmConfig};
pub use user::{Credential, KeySource, StaticUser, User, UserHash};
