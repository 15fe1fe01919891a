//! What clients, peers, the operator and time may do.

use proptest::prelude::*;

use super::{FLOWS, PEERS};

/// Who asks, by which flow and as whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    pub(super) flow: usize,
    pub(super) user: usize,
}

/// What an Allocate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Udp,
    Tcp,
    TcpV6,
    TcpMobile,
    /// With something that is for datagrams.
    TcpEvenPort,
    TcpHeldPort,
    TcpUnfragmented,
    TcpBothFamilies,
    /// Neither UDP nor TCP.
    Other,
}

/// Which connection something happens to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    /// One of those that it can happen to, by age.
    Fitting(usize),
    /// One of those there ever were, by age.
    Any(usize),
    Invented,
    /// One of another worker.
    Elsewhere,
    None,
}

#[derive(Debug, Clone)]
pub(super) enum Operation {
    Allocate {
        asker: Asker,
        wish: Wish,
    },
    Refresh {
        asker: Asker,
        seconds: u32,
    },
    Permit {
        asker: Asker,
        peer: usize,
    },
    /// A channel, which is for datagrams.
    Bind {
        asker: Asker,
        channel: u16,
        peer: usize,
    },
    Send {
        flow: usize,
        peer: usize,
    },
    /// A datagram comes to a relayed address.
    Receive {
        relay: usize,
        peer: usize,
    },
    Connect {
        asker: Asker,
        peer: Option<usize>,
    },
    /// How it went, whether or not somebody still waits to hear.
    Went {
        which: Which,
        is_connected: bool,
    },
    /// A peer connects, or many do, and the client may come for each at once.
    Knock {
        relay: usize,
        peer: usize,
        first_port: u16,
        count: u16,
        is_met: bool,
    },
    Come {
        asker: Asker,
        which: Which,
    },
    /// The client comes for all that waits for it.
    ComeForAll {
        relay: usize,
    },
    /// Either end of a connection is closed.
    End {
        which: Which,
    },
    /// A client's flow ends.
    Close {
        flow: usize,
    },
    /// The operator closes an allocation.
    CloseRelay {
        relay: usize,
    },
    /// The operator changes the rules.
    Forbid {
        is_forbidden: bool,
    },
    /// Another process wants to go on.
    Snapshot,
    Wait {
        seconds: u64,
    },
}

pub(super) fn operation() -> impl Strategy<Value = Operation> {
    let relay = prop_oneof![6 => Just(0usize), 1 => 0..4usize];
    let seconds = prop_oneof![1 => Just(0), 4 => Just(600), 3 => Just(3600), 1 => 0..5000u32];
    let connects_to = prop_oneof![20 => peer().prop_map(Some), 1 => Just(None)];
    let crowd = prop_oneof![40 => Just((1, false)), 2 => Just((35, false)), 1 => Just((135, true))];
    prop_oneof![
        14 => (asker(), wish()).prop_map(|(asker, wish)| Operation::Allocate { asker, wish }),
        3 => (asker(), seconds).prop_map(|(asker, seconds)| Operation::Refresh { asker, seconds }),
        8 => (asker(), peer()).prop_map(|(asker, peer)| Operation::Permit { asker, peer }),
        2 => (asker(), 0x4000..0x4002u16, peer())
            .prop_map(|(asker, channel, peer)| Operation::Bind { asker, channel, peer }),
        2 => (asker(), peer()).prop_map(|(asker, peer)| Operation::Send { flow: asker.flow, peer }),
        2 => (relay.clone(), peer()).prop_map(|(relay, peer)| Operation::Receive { relay, peer }),
        14 => (asker(), connects_to).prop_map(|(asker, peer)| Operation::Connect { asker, peer }),
        18 => (fitting(), prop_oneof![4 => Just(true), 1 => Just(false)])
            .prop_map(|(which, is_connected)| Operation::Went { which, is_connected }),
        10 => (relay.clone(), peer(), 5000..5003u16, crowd).prop_map(|(relay, peer, first_port, crowd)| {
            let (count, is_met) = crowd;
            Operation::Knock { relay, peer, first_port, count, is_met }
        }),
        12 => (comer(), which()).prop_map(|(asker, which)| Operation::Come { asker, which }),
        1 => relay.clone().prop_map(|relay| Operation::ComeForAll { relay }),
        3 => fitting().prop_map(|which| Operation::End { which }),
        1 => (0..FLOWS.len()).prop_map(|flow| Operation::Close { flow }),
        1 => relay.prop_map(|relay| Operation::CloseRelay { relay }),
        2 => any::<bool>().prop_map(|is_forbidden| Operation::Forbid { is_forbidden }),
        1 => Just(Operation::Snapshot),
        6 => prop_oneof![
            8 => Just(1), 6 => Just(29), 3 => Just(30), 1 => Just(300), 1 => Just(600), 1 => 0..700u64
        ]
        .prop_map(|seconds| Operation::Wait { seconds }),
    ]
}

/// Most of it is one client's, so that much comes together.
fn asker() -> impl Strategy<Value = Asker> {
    (prop_oneof![12 => Just(0), 3 => Just(2), 1 => 0..FLOWS.len()], user())
        .prop_map(|(flow, user)| Asker { flow, user })
}

/// By another flow than that, mostly.
fn comer() -> impl Strategy<Value = Asker> {
    let user = prop_oneof![5 => Just(0), 1 => Just(1)];
    (prop_oneof![3 => Just(1), 3 => Just(3), 3 => Just(4), 1 => 0..FLOWS.len()], user)
        .prop_map(|(flow, user)| Asker { flow, user })
}

fn user() -> impl Strategy<Value = usize> {
    prop_oneof![12 => Just(0), 1 => Just(1)]
}

fn peer() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0), 2 => Just(1), 2 => Just(3), 3 => 0..PEERS.len()]
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        3 => Just(Wish::Udp),
        20 => Just(Wish::Tcp),
        2 => Just(Wish::TcpV6),
        1 => Just(Wish::TcpMobile),
        2 => prop_oneof![
            Just(Wish::TcpEvenPort),
            Just(Wish::TcpHeldPort),
            Just(Wish::TcpUnfragmented),
            Just(Wish::TcpBothFamilies),
            Just(Wish::Other),
        ],
    ]
}

fn fitting() -> impl Strategy<Value = Which> {
    prop_oneof![4 => (0..3usize).prop_map(Which::Fitting), 1 => (0..6usize).prop_map(Which::Any)]
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![
        16 => fitting(),
        1 => Just(Which::Invented),
        1 => Just(Which::Elsewhere),
        1 => Just(Which::None),
    ]
}
