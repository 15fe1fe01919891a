//! What strangers send, and that it changes nothing for anybody else.

mod flood;
mod history;
mod limits;
mod peers;

use std::time::Duration;

use farcall_relay::stun::{AttributeType, Class, Method, TransactionId};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::support::{Attributes, Client, Relay, udp, udp_socket};

/// The server answers in order, so a Binding's answer coming first means silence about all before.
fn assert_silent(client: &mut Client, what: &str) {
    let answer = client.ask_plainly(Method::BINDING, &vec![]);
    assert_eq!(answer.message().method(), Method::BINDING, "an answer to {what}");
    assert_eq!(answer.message().class(), Class::Success, "an answer to {what}");
}

#[test]
fn what_is_not_a_request_is_met_with_silence() {
    let relay = Relay::start();
    let mut client = Client::udp(relay.address);
    let method = |number| Method::new(number).unwrap();
    for class in [Class::Success, Class::Error, Class::Indication] {
        for number in [1, 3, 4, 6, 7, 8, 9, 0xabc] {
            let message = client.plain(class, method(number), &vec![]);
            client.transmit(&message);
            assert_silent(&mut client, &format!("{class:?} {number}"));
        }
    }
    let unknown_method = client.plain(Class::Request, method(0xabc), &vec![]);
    let mut too_long = client.plain(Class::Request, Method::BINDING, &vec![]);
    too_long[3] = 4;
    let wrong_fingerprint: Attributes = vec![(AttributeType::FINGERPRINT, vec![1, 2, 3, 4])];
    let wrong_fingerprint = client.plain(Class::Request, Method::BINDING, &wrong_fingerprint);
    let classic = [&[0, 1, 0, 0][..], &[5; 16]].concat();
    let channel = [0x40, 0, 0, 4, 1, 2, 3, 4];
    let cases: [&[u8]; 10] = [
        &[],
        &[0],
        &[0xff; 1400],
        &[0x80; 20],
        &[0; 20],
        &unknown_method,
        &too_long,
        &wrong_fingerprint,
        &classic,
        &channel,
    ];
    for case in cases {
        client.transmit(case);
        assert_silent(&mut client, &format!("{case:02x?}"));
    }
}

#[test]
fn random_and_mutated_datagrams_do_no_harm() {
    let relay = Relay::start();
    let mut client = Client::udp(relay.address);
    client.allocate();
    let mut rng = ChaCha20Rng::seed_from_u64(2026);
    let template = client.signed(Method::ALLOCATE, TransactionId([9; 12]), &udp());
    let hostile = udp_socket();
    for round in 0..20_000u32 {
        let mut datagram =
            if round % 2 == 0 { template.clone() } else { vec![0; rng.next_u32() as usize % 200] };
        if round % 2 == 0 {
            for _ in 0..=rng.next_u32() % 4 {
                let at = rng.next_u32() as usize % datagram.len();
                datagram[at] = rng.next_u32().to_be_bytes()[0];
            }
        } else {
            rng.fill_bytes(&mut datagram);
        }
        hostile.send_to(&datagram, relay.address).unwrap();
    }
    assert_eq!(client.ask(Method::REFRESH, &vec![]).code(), None);
}

#[test]
fn errors_for_strangers_are_small_and_rationed() {
    let relay = Relay::start_with(&["--unauthenticated-rate", "10"]);
    let mut client = Client::udp(relay.address);
    for _ in 0..200 {
        let request = client.plain(Class::Request, Method::ALLOCATE, &udp());
        client.transmit(&request);
    }
    let binding = client.plain(Class::Request, Method::BINDING, &vec![]);
    client.transmit(&binding);
    let mut refused = 0;
    loop {
        let answer = client.receive();
        if answer.len() == 32 {
            break;
        }
        assert!(answer.len() <= 88, "{}", answer.len());
        refused += 1;
    }
    assert!((1..=20).contains(&refused), "{refused} of 200");
}

#[test]
fn a_stream_of_something_else_is_closed_and_others_go_on() {
    let relay = Relay::start();
    let mut bystander = Client::tcp(relay.address);
    bystander.allocate();
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on, a TLS client hello";
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        hello,
        &[0xff; 64],
        &[0; 64],
    ] {
        let begun = farcall_relay::clock::now();
        let mut client = Client::tcp(relay.address);
        client.transmit(bytes);
        client.wait_for_end();
        assert!(begun.elapsed() < Duration::from_secs(5), "closed for what it is, not for being late");
    }
    assert_eq!(bystander.ask(Method::REFRESH, &vec![]).code(), None);
}

#[test]
fn a_stream_that_says_nothing_or_does_not_finish_is_closed_in_time() {
    let relay = Relay::start();
    let mut silent = Client::tcp(relay.address);
    let mut unfinished = Client::tcp(relay.address);
    let request = unfinished.plain(Class::Request, Method::BINDING, &vec![]);
    unfinished.transmit(&request);
    assert_eq!(unfinished.receive().len(), 32);
    unfinished.transmit(&request[..19]);
    silent.wait_for_end();
    unfinished.wait_for_end();
}

#[test]
fn a_stream_client_that_does_not_read_loses_the_oldest_data_and_nobody_else_does() {
    let relay = Relay::start();
    let mut deaf = Client::tcp(relay.address);
    let mut bystander = Client::udp(relay.address).with_user("bob", "builder");
    let peer = udp_socket();
    let relayed = deaf.allocate();
    assert_eq!(deaf.bind(0x4000, peer.local_addr().unwrap()), None);
    let at_bystander = bystander.allocate();
    assert_eq!(bystander.bind(0x4000, peer.local_addr().unwrap()), None);
    let memory = relay.resident_kilobytes();
    let dropped = "dropped_datagrams_total{reason=\"backlog\"}";
    let begun = farcall_relay::clock::now();
    let mut sent = 0u32;
    while relay.metric(dropped) == 0 {
        assert!(begun.elapsed() < crate::support::DEADLINE, "{sent} sent and none dropped");
        for _ in 0..500 {
            peer.send_to(&[7; 8000], relayed).unwrap();
            sent += 1;
        }
    }
    peer.send_to(b"still here", at_bystander).unwrap();
    assert_eq!(&bystander.receive()[4..], b"still here");
    let grown = relay.resident_kilobytes().saturating_sub(memory);
    assert!(grown < 16 * 1024, "{grown} kB more for one that does not read");
}

#[test]
fn another_clients_allocation_cannot_be_used_without_its_address_or_its_user() {
    let relay = Relay::start();
    let mut owner = Client::udp(relay.address);
    let peer = udp_socket();
    owner.allocate();
    assert_eq!(owner.bind(0x4000, peer.local_addr().unwrap()), None);
    let mut thief = Client::udp(relay.address);
    thief.send_by_channel(0x4000, b"from the thief");
    assert_eq!(thief.permit(peer.local_addr().unwrap()), Some(437));
    assert_silent(&mut thief, "channel data without a channel");
    owner.send_by_channel(0x4000, b"from the owner");
    let mut buffer = [0; 64];
    let (length, _) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"from the owner");
}
