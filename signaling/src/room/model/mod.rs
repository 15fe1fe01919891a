//! The eight lines of the contract as property tests: the core under hostile schedules, against a naive model.
//!
//! [`world`] plays clients with a network that duplicates, drops, delays and reorders their calls and cuts their
//! streams, on virtual time. [`naive`] is what ought to happen, written without a thought for cost. [`contract`]
//! has a test per line.

mod contract;
mod naive;
mod world;
