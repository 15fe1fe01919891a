//! How long an allocation lives. RFC 8656, sections 7.2 and 8.2.

use std::time::Duration;

use super::Reject;
use crate::stun::{AttributeType, Message};

/// The bounds of what a client may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// At least this, and what a client gets that does not ask.
    pub default: Duration,
    /// At most this.
    pub max: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { default: Duration::from_secs(600), max: Duration::from_secs(3600) }
    }
}

impl Lifetimes {
    /// What a client gets that asks for this much. Zero, which ends an allocation, is the caller's affair.
    #[must_use]
    pub fn grant(&self, requested: Option<Duration>) -> Duration {
        requested.map_or(self.default, |requested| requested.min(self.max).max(self.default))
    }
}

/// Reads the value of LIFETIME.
fn parse(value: &[u8]) -> Option<Duration> {
    let seconds = u32::from_be_bytes(value.try_into().ok()?);
    Some(Duration::from_secs(seconds.into()))
}

/// What a request's LIFETIME says.
pub(super) fn requested(message: &Message<'_>) -> Result<Option<Duration>, Reject> {
    let value = message.find(AttributeType::LIFETIME);
    value.map(|value| parse(value).ok_or(Reject::BadRequest)).transpose()
}

/// The value of LIFETIME. Granted lifetimes are far below the limit.
pub(super) fn to_value(lifetime: Duration) -> [u8; 4] {
    u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_granted_between_default_and_maximum() {
        let granted = |seconds| Lifetimes::default().grant(Some(Duration::from_secs(seconds))).as_secs();
        assert_eq!(
            [0, 1, 600, 601, 3600, 3601, 1 << 31].map(granted),
            [600, 600, 600, 601, 3600, 3600, 3600]
        );
        assert_eq!(Lifetimes::default().grant(None).as_secs(), 600);
    }
}
