//! RFC 8656, section 11.5, over real sockets: on loopback a port that nobody has is an ICMP error at once.

use std::net::{SocketAddr, UdpSocket};

use farcall_relay::stun::{AttributeType, Class, Message, Method};

use crate::support::{Client, Relay, echo_peer, echo_peer_at, has_ipv6, udp_and};

/// An address where nobody is.
fn nobody(ip: &str) -> SocketAddr {
    UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// The peer and the ICMP attribute, if this is about one.
fn icmp(frame: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
    let message = Message::parse(frame).ok()?;
    assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
    let value = message.find(AttributeType::ICMP)?;
    assert_eq!(message.find(AttributeType::DATA), None);
    Some((message.find_xor_address(AttributeType::XOR_PEER_ADDRESS)?, value.to_vec()))
}

/// A client with a channel to an echo and another to nobody.
fn between(mut client: Client, echo: SocketAddr, nobody: SocketAddr) -> Client {
    assert_eq!((client.bind(0x4000, echo), client.bind(0x4001, nobody)), (None, None));
    client
}

#[test]
fn a_client_hears_that_nobody_is_there_and_nobody_else_is_cut_off() {
    let relay = Relay::start();
    let (echo, nobody) = (echo_peer(), nobody("127.0.0.1"));
    for mut client in [Client::udp(relay.address), Client::tcp(relay.address)] {
        client.allocate();
        let mut client = between(client, echo, nobody);
        client.send(nobody, b"anybody?", &vec![]);
        let (peer, value) = icmp(&client.receive()).expect("ICMP");
        assert_eq!((peer, &value[..]), (nobody, &[0, 0, 3 << 1, 3, 0, 0, 0, 0][..]), "port unreachable");

        // Every error makes the kernel fail a call about something else.
        let mut heard = 0;
        for number in 0..200u16 {
            client.send_by_channel(0x4001, b"anybody?");
            client.send(echo, &number.to_be_bytes(), &vec![(AttributeType::DONT_FRAGMENT, vec![])]);
            client.send_by_channel(0x4000, &number.to_be_bytes());
            let mut echoes = 0;
            while echoes < 2 {
                let frame = client.receive();
                if frame[..2] == [0x40, 0] {
                    assert_eq!(frame[4..6], number.to_be_bytes(), "lost");
                    echoes += 1;
                } else {
                    assert_eq!(icmp(&frame).expect("ICMP").0, nobody);
                    heard += 1;
                }
            }
        }
        assert!(heard > 0);
    }
    assert_eq!(relay.metric("dropped_datagrams_total{reason=\"send_failed\"}"), 0);
}

#[test]
fn a_client_is_told_so_many_at_a_time_and_the_rest_is_counted() {
    let relay = Relay::start();
    let (echo, nobody) = (echo_peer(), nobody("127.0.0.1"));
    let mut client = Client::udp(relay.address);
    client.allocate();
    let mut client = between(client, echo, nobody);
    let mut heard = 0;
    // Until more than a burst has been kept from it; at ten a second no test takes long enough to hear them all.
    while relay.metric("dropped_datagrams_total{reason=\"icmp_rate\"}") < 20 {
        for _ in 0..10 {
            client.send_by_channel(0x4001, b"anybody?");
        }
        client.send_by_channel(0x4000, b"over");
        loop {
            let frame = client.receive();
            if frame[..2] == [0x40, 0] {
                break;
            }
            assert_eq!(icmp(&frame).expect("ICMP").0, nobody);
            heard += 1;
        }
    }
    assert!(heard >= 16, "{heard}");
}

#[test]
fn icmpv6_is_told_under_its_own_numbers() {
    if !has_ipv6() {
        return;
    }
    let relay =
        Relay::start_with(&["--allow-peer", "::1/128", "--relay-ip", "127.0.0.1", "--relay-ip", "::1"]);
    let mut client = Client::udp(relay.address);
    let family = udp_and(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    assert_eq!(client.ask(Method::ALLOCATE, &family).code(), None);
    let (echo, nobody) = (echo_peer_at("::1"), nobody("::1"));
    let mut client = between(client, echo, nobody);
    client.send_by_channel(0x4001, b"anybody?");
    let (peer, value) = icmp(&client.receive()).expect("ICMP");
    assert_eq!((peer, &value[..]), (nobody, &[0, 0, 1 << 1, 4, 0, 0, 0, 0][..]), "port unreachable");
    client.send_by_channel(0x4000, b"echo");
    assert_eq!(&client.receive()[4..8], b"echo");
}

#[test]
fn the_portable_plane_says_nothing_and_goes_on() {
    let relay = Relay::start_with(&["--allow-peer", "127.0.0.0/8", "--data-plane", "portable"]);
    let (echo, nobody) = (echo_peer(), nobody("127.0.0.1"));
    let mut client = Client::udp(relay.address);
    client.allocate();
    let mut client = between(client, echo, nobody);
    for _ in 0..20 {
        client.send_by_channel(0x4001, b"anybody?");
        client.send_by_channel(0x4000, b"echo");
        assert_eq!(&client.receive()[4..8], b"echo");
    }
}
