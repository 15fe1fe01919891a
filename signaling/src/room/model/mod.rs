//! The eight lines of the contract as property tests: the core under hostile schedules, against a naive model.
//! Whoever has the same rules elsewhere runs all of it with [`contract::contract`].
//!
//! [`world`] plays clients with a network that duplicates, drops, delays and reorders their calls and cuts their
//! streams, on virtual time. [`naive`] is what ought to happen, written without a thought for cost. [`contract`]
//! has a test per line.

pub(crate) mod contract;
mod naive;
pub(crate) mod world;

contract::contract!(256, world::World::new());
