//! What the operator shows to be let in.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// A bearer token.
#[derive(Clone)]
pub struct AdminToken(Arc<str>);

impl AdminToken {
    /// As it was written.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    fn is(&self, shown: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(shown).into()
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(redacted)")
    }
}

/// Turns away whoever does not show it.
#[derive(Debug, Clone)]
pub(super) struct Check(Option<AdminToken>);

impl Check {
    pub(super) fn new(token: Option<AdminToken>) -> Self {
        Self(token)
    }
}

impl Interceptor for Check {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.0 else { return Ok(request) };
        let shown = request.metadata().get("authorization").map(|value| value.as_bytes());
        match shown.and_then(|value| value.strip_prefix(b"Bearer ")) {
            Some(shown) if token.is(shown) => Ok(request),
            Some(_) | None => Err(Status::unauthenticated("authorization: Bearer TOKEN is wanted")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(header: Option<&str>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().unwrap());
        }
        request
    }

    #[test]
    fn only_the_token_opens() {
        let mut check = Check::new(Some(AdminToken::new("0123456789abcdef")));
        for header in [None, Some("Bearer "), Some("Bearer 0123456789abcdeX"), Some("0123456789abcdef")] {
            assert!(check.call(with(header)).is_err(), "{header:?}");
        }
        assert!(check.call(with(Some("Bearer 0123456789abcdef"))).is_ok());
        assert!(Check::new(None).call(with(None)).is_ok());
        assert!(!format!("{check:?}").contains("0123"));
    }
}
