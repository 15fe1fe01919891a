//! Which allocations a client has: one, or one of each address family. RFC 8656, section 5.

use std::collections::HashMap;

use super::{AllocationId, FiveTuple};

/// The allocations of every client.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_flow: HashMap<FiveTuple, Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    first: AllocationId,
    second: Option<AllocationId>,
}

impl Clients {
    /// Gives a client one more. Nobody has more than two.
    pub(super) fn add(&mut self, flow: FiveTuple, id: AllocationId) {
        let held = self.by_flow.entry(flow).or_insert(Held { first: id, second: None });
        if held.first != id {
            held.second = Some(id);
        }
    }

    /// Takes one away; nothing happens if it was not this client's.
    pub(super) fn remove(&mut self, flow: FiveTuple, id: AllocationId) {
        let left = self.all(flow).find(|held| *held != id);
        if self.all(flow).all(|held| held != id) {
            return;
        }
        match left {
            Some(first) => drop(self.by_flow.insert(flow, Held { first, second: None })),
            None => drop(self.by_flow.remove(&flow)),
        }
    }

    /// The allocations of one client, in the order in which they were made.
    pub(super) fn all(&self, flow: FiveTuple) -> impl Iterator<Item = AllocationId> + use<> {
        let held = self.by_flow.get(&flow).copied();
        held.into_iter().flat_map(|Held { first, second }| [Some(first), second]).flatten()
    }

    /// Gives memory back that only more clients than there are now would need.
    pub(super) fn shrink(&mut self) {
        self.by_flow.shrink_to_fit();
    }

    pub(super) fn contains(&self, flow: FiveTuple) -> bool {
        self.by_flow.contains_key(&flow)
    }
}
