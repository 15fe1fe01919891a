//! Many strangers at once. `cargo xtask bench relay/flood` has a million of them.

use std::net::{Ipv4Addr, UdpSocket};

use farcall_relay::stun::{AttributeType, Class, Method, TransactionId};

use crate::support::{Attributes, Client, Relay, udp, udp_socket};

#[test]
fn a_flood_of_allocates_from_strangers_costs_neither_memory_nor_descriptors() {
    let relay = Relay::start_with(&["--unauthenticated-rate", "100"]);
    let mut client = Client::udp(relay.address);
    client.allocate();
    let bare = client.plain(Class::Request, Method::ALLOCATE, &udp());
    let forged = Client::udp(relay.address).with_user("alice", "guess");
    let forged = forged.signed(Method::ALLOCATE, TransactionId([9; 12]), &udp());
    let flood = || {
        for _ in 0..200 {
            let stranger = udp_socket();
            for _ in 0..50 {
                stranger.send_to(&bare, relay.address).unwrap();
                stranger.send_to(&forged, relay.address).unwrap();
            }
        }
    };
    flood();
    relay.wait_until_idle();
    assert_eq!(client.ask(Method::REFRESH, &vec![]).code(), None);
    let (memory, descriptors) = (relay.resident_kilobytes(), relay.descriptors());
    (0..5).for_each(|_| flood());
    relay.wait_until_idle();
    assert_eq!(client.ask(Method::REFRESH, &vec![]).code(), None);
    assert_eq!(relay.descriptors(), descriptors);
    let grown = relay.resident_kilobytes().saturating_sub(memory);
    assert!(grown < 1024, "{grown} kB more after 100 000 datagrams");
    assert_eq!(relay.metric("allocations"), 1);
}

#[test]
fn twenty_thousand_addresses_that_ask_for_an_allocation_leave_nothing_behind() {
    let relay = Relay::start();
    let (mut client, peer) = (Client::udp(relay.address), udp_socket());
    client.allocate();
    assert_eq!(client.bind(0x4000, peer.local_addr().unwrap()), None);
    // Nonces of somebody who was answered elsewhere are good there alone, whatever the password.
    let mut elsewhere = Client::udp(relay.address);
    let right = elsewhere.prepare(Method::ALLOCATE, &udp());
    let mut guesses = Client::udp(relay.address).with_user("alice", "guess");
    let wrong = guesses.prepare(Method::ALLOCATE, &udp());
    let bare = guesses.plain(Class::Request, Method::ALLOCATE, &udp());
    let ticket: Attributes = vec![(AttributeType::MOBILITY_TICKET, vec![7; 24])];
    let moves = elsewhere.signed(Method::REFRESH, TransactionId([8; 12]), &ticket);
    let connects = elsewhere.signed(Method::new(11).unwrap(), TransactionId([9; 12]), &vec![]);
    let requests = [right, wrong, bare, moves, connects];
    let flood = |strangers: std::ops::Range<u32>| {
        for (stranger, request) in strangers.zip(requests.iter().cycle()) {
            let host = stranger.wrapping_mul(7_368_787) % (1 << 24);
            let address = Ipv4Addr::from_bits(0x7f00_0000 | host.clamp(2, 0xff_fffe));
            UdpSocket::bind((address, 0)).unwrap().send_to(request, relay.address).unwrap();
        }
        // What finds the queue full proves nothing.
        relay.wait_until_idle();
    };
    flood(0..500);
    let (memory, descriptors) = (relay.resident_kilobytes(), relay.descriptors());
    for batch in 1..=40 {
        flood(batch * 500..(batch + 1) * 500);
        client.send_by_channel(0x4000, &batch.to_be_bytes());
        let mut buffer = [0; 64];
        assert_eq!(peer.recv(&mut buffer).unwrap(), 4, "who was there before is served all along");
        assert_eq!(buffer[..4], batch.to_be_bytes());
    }
    assert_eq!(relay.descriptors(), descriptors);
    let grown = relay.resident_kilobytes().saturating_sub(memory);
    assert!(grown < 1024, "{grown} kB more after 20 000 strangers");
    assert_eq!((relay.metric("allocations"), relay.metric("allocations_created_total")), (1, 1));
    // They were heard: each of them was told no, or would have been but for the budget of its prefix.
    let told = ["401", "438"]
        .map(|code| relay.metric(&format!("requests_total{{method=\"allocate\",result=\"{code}\"}}")));
    let unheard = relay.metric("dropped_datagrams_total{reason=\"receive_buffer_full\"}");
    assert!(told.iter().all(|told| *told > 4000) && unheard == 0, "{told:?}, {unheard} unheard");
}
