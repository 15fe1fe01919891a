//! Who may relay where, and how much: which peers are out of bounds, allocations per user, answers to strangers.

pub mod budget;
pub mod meter;
pub mod own_relays;
pub mod peer;
pub mod quota;

pub use budget::UnauthenticatedBudget;
pub use meter::{Limits, Meter};
pub use own_relays::OwnRelays;
pub use peer::PeerPolicy;
pub use quota::{Quota, Reservation};
