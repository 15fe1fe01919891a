//! What is not answered, and what strangers are told.

use super::*;

#[test]
fn what_is_not_a_request_is_never_answered() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let id = TransactionId([1; 12]);
    let method = |number| Method::new(number).unwrap();
    let mut datagrams =
        vec![vec![], vec![0], vec![0x80; 40], vec![0xff; 20], vec![0x40, 0, 0, 4, 1, 2, 3, 4], vec![0; 20]];
    for class in [Class::Success, Class::Error, Class::Indication] {
        for number in [1, 3, 4, 6, 7, 8, 9, 0xfff] {
            datagrams.push(unsigned(class, method(number), id, &vec![]));
        }
    }
    for number in [2, 6, 7, 0xc, 0xfff] {
        datagrams.push(unsigned(Class::Request, method(number), id, &vec![]));
    }
    for datagram in datagrams {
        world.deliver(client.flow, &datagram);
        assert!(world.is_silent(), "{datagram:02x?}");
    }
}

#[test]
fn a_datagram_from_port_zero_is_never_answered() {
    let mut world = World::new();
    let client = world.client("192.0.2.7:0");
    world.deliver(client.flow, &unsigned(Class::Request, Method::BINDING, TransactionId([1; 12]), &vec![]));
    assert!(world.is_silent());
    assert_eq!(world.counted("dropped_datagrams_total{reason=\"source_port_zero\"}"), 1);
}

#[test]
fn a_message_cut_short_or_with_a_wrong_fingerprint_is_never_answered() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let request = world.request(&client, Method::ALLOCATE, &udp());
    for end in 0..request.len() {
        world.deliver(client.flow, &request[..end]);
        assert!(world.is_silent(), "{end}");
    }
}

#[test]
fn errors_for_strangers_stay_within_the_budget_and_a_client_with_credentials_gets_through() {
    let mut world = World::with_rate(|_| (), Some(10));
    let client = world.client(CLIENT);
    for number in 0..100u8 {
        let request = unsigned(Class::Request, Method::ALLOCATE, TransactionId([number; 12]), &udp());
        world.deliver(client.flow, &request);
    }
    assert_eq!(world.actions().len(), 5);
    assert_eq!(world.counted("dropped_datagrams_total{reason=\"unauthenticated_rate\"}"), 95);
    assert_eq!(world.code(&client, Method::ALLOCATE, udp()), None);
}

#[test]
fn a_stream_client_has_proven_where_it_is_and_is_always_told() {
    let mut world = World::with_rate(|_| (), Some(1));
    let mut client = world.client(CLIENT);
    client.flow.transport = Transport::Tcp;
    for number in 0..10u8 {
        let request = unsigned(Class::Request, Method::ALLOCATE, TransactionId([number; 12]), &udp());
        world.deliver(client.flow, &request);
    }
    assert_eq!(world.actions().len(), 10);
}

#[test]
fn strangers_cost_no_state() {
    let mut world = World::new();
    for port in 1..1000u16 {
        let client = world.client(&format!("192.0.2.9:{port}"));
        let mut forged = client.clone();
        forged.password = "guess".into();
        let mut stale = client.clone();
        stale.nonce = b"AAAAAAAAAAAAAAAAAAAA".to_vec();
        for client in [forged, stale] {
            world.ask(&client, Method::ALLOCATE, udp());
        }
    }
    assert_eq!((world.server.allocation_count(), world.server.poll_timeout()), (0, None));
    assert!(world.opened.is_empty());
}
