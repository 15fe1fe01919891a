//! The TURN server as a state machine: datagrams and time in, actions out. RFC 8656.
//!
//! No socket, no clock and no runtime in here; [`Server`] is driven through its verbs and decides everything that the
//! rest of the program then carries out. Each worker owns one, so that nothing in it is shared or locked.

mod action;
mod addresses;
mod allocate;
mod allocation;
mod alternates;
mod channel;
mod clients;
mod connections;
mod deadlines;
mod discovery;
mod ended;
mod five_tuple;
mod handles;
mod icmp;
mod inspect;
mod lifetime;
mod lookups;
mod mobility;
mod permission;
mod ports;
mod reject;
mod reply;
mod requests;
mod server;
mod snapshot;

pub use action::{Action, AllocationId, Fragmentation, RelayError, Route};
pub use addresses::Addresses;
pub use alternates::Alternates;
pub use channel::ChannelRange;
pub use connections::{ConnectionId, RelayProtocol};
pub use discovery::{AddressPair, Discovery};
pub use five_tuple::{ClientAddr, FiveTuple, PeerAddr, RelayedAddr, Transport};
pub use handles::{HandleSecret, Handles, WorkerIndex};
pub use icmp::IcmpError;
pub use inspect::{Admission, Departure, EndReason, Peers, Rules, Serial, Serials, Summary};
pub use lifetime::Lifetimes;
pub use reject::Reject;
pub use server::{ClassicStun, Config, Now, Parts, Server, TcpRelay};
pub(crate) use snapshot::SavedFlow;
pub use snapshot::{Corrupt, Restored, Snapshot};

#[cfg(test)]
mod model;
#[cfg(test)]
mod tcp_model;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wider_model;
#[cfg(test)]
mod world;
