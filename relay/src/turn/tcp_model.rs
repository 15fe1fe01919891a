//! The state machine against a third model, of TCP allocations among others: who may have a connection to whom, who is
//! told what, and what is open until when. It is lists again, written from RFC 6062 and not from the machine.

mod lists;
mod operation;
mod pair;

use std::net::SocketAddr;

use proptest::prelude::*;

use super::world::SERVER;
use super::*;
use operation::operation;
use pair::Pair;

/// Two clients behind one address, one of whom comes by a datagram as well, two behind another, and one elsewhere.
const FLOWS: [(&str, Transport); 7] = [
    ("192.0.2.7:4000", Transport::Tcp),
    ("192.0.2.7:4001", Transport::Tcp),
    ("192.0.2.8:4000", Transport::Tls),
    ("192.0.2.8:4001", Transport::Tls),
    ("203.0.113.50:9000", Transport::Tcp),
    ("192.0.2.7:4000", Transport::Udp),
    ("203.0.113.50:9000", Transport::Dtls),
];
/// Two at one IP address and a third that nobody can connect to; one that the operator may come to forbid; one that is
/// always out of bounds; one where permissions are of use but this very port is not; and one of the other family.
const PEERS: [&str; 7] = [
    "8.8.8.8:5000",
    "8.8.8.8:5001",
    "8.8.8.8:0",
    FORBIDDEN_AT_TIMES,
    "10.0.0.1:5000",
    SERVER,
    "[2606:4700::2]:5000",
];
const FORBIDDEN_AT_TIMES: &str = "1.1.1.1:5000";
/// The first owns most of what there is.
const USERS: [&str; 2] = ["alice", "bob"];

/// What can be seen of the server from outside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Effect {
    /// A request has its answer: this error or none, and perhaps a connection's number.
    Answered {
        to: FiveTuple,
        transaction: [u8; 12],
        code: Option<u16>,
        connection: Option<u32>,
    },
    /// A client hears of a peer that has connected.
    Attempted {
        to: FiveTuple,
        connection: u32,
        peer: SocketAddr,
    },
    Connecting {
        from: usize,
        connection: u32,
        peer: SocketAddr,
    },
    Spliced {
        connection: u32,
        with: FiveTuple,
    },
    Disconnected {
        connection: u32,
    },
    RelayClosed {
        relay: usize,
    },
    SentToPeer {
        from: usize,
        peer: SocketAddr,
    },
    SentToClient {
        to: FiveTuple,
    },
    /// A stream is the other worker's.
    Moved {
        stream: FiveTuple,
    },
}

/// By which flow somebody asks.
fn flow(at: usize) -> FiveTuple {
    let (client, transport) = FLOWS[at];
    FiveTuple { client: ClientAddr(client.parse().unwrap()), server: SERVER.parse().unwrap(), transport }
}

fn peer(at: usize) -> SocketAddr {
    PEERS[at].parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_sequence_with_connections_looks_like_the_model(operations in proptest::collection::vec(operation(), 1..80)) {
        let mut pair = Pair::new();
        for operation in &operations {
            pair.run(operation);
        }
    }
}
