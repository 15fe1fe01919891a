//! What a datagram costs in our own code, without the kernel: `cargo bench -p farcall-relay`.
//!
//! Median and spread of the rounds after the first, in nanoseconds for one operation. The kernel's share is a hundred
//! times that, and measured with the whole program.

use std::hint::black_box;
use std::io::{self, Write};
use std::net::SocketAddr;

use farcall_relay::clock;
use farcall_relay::routes::Routes;
use farcall_relay::stun::{
    AttributeType, ChannelData, ChannelNumber, Class, IntegrityKey, Message, MessageWriter, Method,
    TransactionId, channel_data,
};
use farcall_relay::turn::{AllocationId, ClientAddr, FiveTuple, PeerAddr, Route, Transport};

const ROUNDS: usize = 12;
const OPERATIONS: u32 = 100_000;

fn main() -> io::Result<()> {
    let datagram = channel_datagram();
    measure("ChannelData: parse", || black_box(ChannelData::parse(black_box(&datagram))).is_some())?;
    for clients in [1, 100, 10_000] {
        let (routes, keys) = routes(clients);
        let mut next = keys.iter().cycle();
        measure(&format!("route to peer, {clients} clients"), || {
            next.next()
                .is_some_and(|(flow, channel, ..)| black_box(routes.to_peer(*flow, *channel)).is_some())
        })?;
        let mut next = keys.iter().cycle();
        measure(&format!("route to client, {clients} clients"), || {
            next.next().is_some_and(|(_, _, id, peer)| black_box(routes.to_client(*id, *peer)).is_some())
        })?;
    }
    let binding = message(|_| ());
    measure("Binding: parse", || Message::parse(black_box(&binding)).is_ok())?;
    let key = IntegrityKey::long_term_md5("alice", "example.org", "wonder");
    let signed = message(|writer| {
        writer.attribute(AttributeType::USERNAME, b"alice").integrity(&key);
    });
    measure("signed request: parse and verify", || {
        Message::parse(black_box(&signed)).is_ok_and(|message| message.verify_integrity(&key))
    })?;
    let client: SocketAddr = ([192, 0, 2, 7], 4000).into();
    let mut buffer = Vec::with_capacity(128);
    measure("Binding response: write", || {
        MessageWriter::new(&mut buffer, Class::Success, Method::BINDING, TransactionId([7; 12]))
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, black_box(client))
            .finish()
            .is_ok()
    })
}

/// Runs an operation, checks that it did what it should, and says what one cost.
fn measure(name: &str, mut operation: impl FnMut() -> bool) -> io::Result<()> {
    let mut rounds: Vec<_> = (0..=ROUNDS)
        .map(|_| {
            let begun = clock::now();
            let done = (0..OPERATIONS).filter(|_| operation()).count();
            assert_eq!(u32::try_from(done), Ok(OPERATIONS), "{name} does not do what it is measured for");
            begun.elapsed().as_nanos() / u128::from(OPERATIONS)
        })
        .skip(1)
        .collect();
    rounds.sort_unstable();
    let (least, median, most) = (rounds.first(), rounds.get(ROUNDS / 2), rounds.last());
    let shown = least.zip(median).zip(most);
    let Some(((least, median), most)) = shown else { return Ok(()) };
    writeln!(io::stdout(), "{name:40} {median:>6} ns  ({least} to {most})")
}

type Key = (FiveTuple, ChannelNumber, AllocationId, PeerAddr);

fn routes(clients: usize) -> (Routes, Vec<Key>) {
    let mut routes = Routes::default();
    let server = ([198, 51, 100, 1], 3478).into();
    let keys: Vec<Key> = (0..clients)
        .filter_map(|number| {
            let [.., high, low] = number.to_be_bytes();
            let flow = FiveTuple {
                client: ClientAddr(([192, 0, high, low], 4000).into()),
                server,
                transport: Transport::Udp,
            };
            let peer = PeerAddr(([8, 8, high, low], 5000).into());
            Some((flow, ChannelNumber::new(0x4000)?, AllocationId(number), peer))
        })
        .collect();
    for (flow, channel, allocation, peer) in &keys {
        routes.install(Route { flow: *flow, allocation: *allocation, channel: *channel, peer: *peer });
    }
    (routes, keys)
}

fn channel_datagram() -> Vec<u8> {
    let header = ChannelNumber::new(0x4000).and_then(|channel| channel_data::header(channel, 160));
    [header.unwrap_or_default().as_slice(), &[7; 160]].concat()
}

fn message(add: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    add(&mut MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, TransactionId([7; 12])));
    bytes
}
