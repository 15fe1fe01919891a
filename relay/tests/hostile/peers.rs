//! Peers that nobody may reach, however their addresses are written and by whatever method they are asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use farcall_relay::stun::address::EncodedAddress;
use farcall_relay::stun::{AttributeType, ErrorCode, Message, Method};

use super::assert_silent;
use crate::support::{Attributes, Certificate, Client, Relay, has_ipv6, udp_and, udp_socket};

const DENIED_V4: [&str; 18] = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.1.1",
    "192.0.0.8",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
];
const DENIED_V6: [&str; 8] =
    ["::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"];

/// An IPv4 address in every form in which IPv6 can carry it.
fn disguises(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
    let bits = u128::from(v4.to_bits());
    let at = |prefix: &str, shift: u32| {
        Ipv6Addr::from_bits(prefix.parse::<Ipv6Addr>().unwrap().to_bits() | bits << shift)
    };
    let teredo = u128::from(!v4.to_bits()) | "2001::".parse::<Ipv6Addr>().unwrap().to_bits();
    vec![
        at("::ffff:0:0", 0),
        at("::", 0),
        at("::ffff:0:0:0", 0),
        at("64:ff9b::", 0),
        at("2002::", 80),
        at("2606:4700::5efe:0:0", 0),
        at("2606:4700::200:5efe:0:0", 0),
        Ipv6Addr::from_bits(teredo),
    ]
}

/// Permission, channel and Send, none of which may lead anywhere. The relay's own address may have a permission, since
/// other relays are there, but no data goes anywhere else at it.
fn assert_out_of_bounds(client: &mut Client, ip: IpAddr, own: IpAddr) {
    let peer = SocketAddr::new(ip, 53);
    let expected = (ip != own).then_some(403);
    assert_eq!(client.permit(peer), expected, "permission for {ip}");
    assert_eq!(client.bind(0x4000, peer), Some(403), "channel for {ip}");
    client.send(peer, b"through Send", &vec![]);
}

#[test]
fn no_method_reaches_a_denied_ipv4_address() {
    let relay = Relay::start_with(&[]);
    let mut client = Client::udp(relay.address);
    let own = client.allocate().ip();
    for text in DENIED_V4 {
        assert_out_of_bounds(&mut client, text.parse().unwrap(), own);
    }
    assert_silent(&mut client, "Send");
    assert_eq!(relay.metric("forwarded_datagrams_total{direction=\"to_peer\"}"), 0);
}

#[test]
fn no_method_reaches_a_denied_address_in_any_form_of_ipv6() {
    if !has_ipv6() {
        return;
    }
    let relay = Relay::start_with(&["--relay-ip", "::1"]);
    let mut client = Client::udp(relay.address);
    let v6 = udp_and(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    let own = client.ask(Method::ALLOCATE, &v6).address(AttributeType::XOR_RELAYED_ADDRESS).ip();
    for text in DENIED_V6 {
        assert_out_of_bounds(&mut client, text.parse().unwrap(), own);
    }
    for v4 in DENIED_V4.map(|text| text.parse().unwrap()) {
        for disguise in disguises(v4) {
            assert_out_of_bounds(&mut client, disguise.into(), own);
        }
    }
    assert_silent(&mut client, "Send");
    assert_eq!(relay.metric("forwarded_datagrams_total{direction=\"to_peer\"}"), 0);
    assert_eq!(client.permit("[2606:4700::1]:53".parse().unwrap()), None, "the rest is allowed");
}

#[test]
fn one_denied_peer_among_many_refuses_them_all() {
    let relay = Relay::start_with(&[]);
    let mut client = Client::udp(relay.address);
    client.allocate();
    let peers = ["8.8.8.8:1", "169.254.169.254:80", "8.8.4.4:1"].map(|text| text.parse().unwrap());
    assert_eq!(client.permit_all(&peers), Some(403));
    client.send(peers[0], b"data", &vec![]);
    assert_silent(&mut client, "Send");
    assert_eq!(relay.metric("dropped_datagrams_total{reason=\"no_permission\"}"), 1);
}

#[test]
fn no_method_reaches_the_servers_own_listeners_even_where_loopback_is_allowed() {
    let certificate = Certificate::make("localhost");
    let files = certificate.flags();
    let relay = Relay::start_with(&[
        "--allow-peer=127.0.0.0/8",
        "--alternate-listen=127.0.0.2:0",
        "--tls-listen=127.0.0.1:0",
        "--dtls-listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        &files[0],
        &files[1],
    ]);
    let mut client = Client::udp(relay.address);
    client.allocate();
    let (own, alternate) = (relay.address, relay.alternate());
    let listeners = [
        own,
        alternate,
        SocketAddr::new(own.ip(), alternate.port()),
        SocketAddr::new(alternate.ip(), own.port()),
        relay.metrics_address(),
        relay.admin().parse().unwrap(),
        relay.tls(),
        relay.dtls(),
    ];
    assert_eq!(client.permit(own), None, "the address itself is one that may be allowed");
    for listener in listeners {
        assert_eq!(client.bind(0x4000, listener), Some(403), "{listener}");
        client.send(listener, &[0, 1, 0, 0], &vec![]);
    }
    assert_silent(&mut client, "Send");
    assert_eq!(relay.metric("forwarded_datagrams_total{direction=\"to_peer\"}"), 0);
}

#[test]
fn the_first_of_several_peer_addresses_counts() {
    let relay = Relay::start();
    let mut client = Client::udp(relay.address);
    client.allocate();
    let (first, second) = (udp_socket(), udp_socket());
    assert_eq!(client.permit(first.local_addr().unwrap()), None);
    let id = client.upcoming();
    let more: Attributes = vec![(
        AttributeType::XOR_PEER_ADDRESS,
        EncodedAddress::xor(second.local_addr().unwrap(), &id).as_bytes().to_vec(),
    )];
    client.send(first.local_addr().unwrap(), b"data", &more);
    let mut buffer = [0; 64];
    assert_eq!(first.recv_from(&mut buffer).unwrap().0, 4);
}

#[test]
fn seventy_thousand_peers_of_one_client_are_bounded() {
    let relay = Relay::start_with(&[]);
    let mut client = Client::udp(relay.address);
    client.allocate();
    let memory = relay.resident_kilobytes();
    let (mut granted, mut refused) = (0, 0);
    for batch in 0..1400u32 {
        let peers: Vec<_> = (0..50)
            .map(|peer| SocketAddr::new(Ipv4Addr::from_bits(0x0800_0000 + batch * 50 + peer).into(), 1))
            .collect();
        match client.permit_all(&peers) {
            None => granted += peers.len(),
            Some(508) => refused += 1,
            Some(other) => panic!("{other}"),
        }
    }
    assert_eq!((granted, refused), (1000, 1380), "up to 1024 peers of one allocation, 50 at a time");
    let grown = relay.resident_kilobytes().saturating_sub(memory);
    assert!(grown < 1024, "{grown} kB more");
    assert_eq!(client.ask(Method::REFRESH, &vec![]).code(), None);
}

#[test]
fn allocations_that_send_to_each_other_and_to_themselves_make_no_loop() {
    let relay = Relay::start();
    let mut one = Client::udp(relay.address);
    let mut other = Client::udp(relay.address).with_user("bob", "builder");
    let (at_one, at_other) = (one.allocate(), other.allocate());
    for (client, channel, peer) in [(&mut one, 0x4000, at_other), (&mut other, 0x4000, at_one)] {
        assert_eq!(client.bind(channel, peer), None);
    }
    assert_eq!(one.bind(0x4001, at_one), None);
    // To oneself, and to each other: data, requests, and answers to requests. Each arrives once and causes nothing.
    let binding = one.plain(farcall_relay::stun::Class::Request, Method::BINDING, &vec![]);
    for data in [&b"data"[..], &binding] {
        one.send_by_channel(0x4000, data);
        assert_eq!(&other.receive()[4..], data);
        one.send_by_channel(0x4001, data);
        assert_eq!(&one.receive()[4..], data);
    }
    assert_silent(&mut one, "a loop");
    assert_silent(&mut other, "a loop");
    relay.wait_for_metric("forwarded_datagrams_total{direction=\"to_peer\"}", 4);
    assert_eq!(relay.metric("forwarded_datagrams_total{direction=\"to_client\"}"), 4);
}

#[test]
fn errors_of_two_servers_do_not_go_back_and_forth() {
    // What one server says to another is an answer, and answers are met with silence.
    let (relay, reflector) = (Relay::start(), udp_socket());
    let mut buffer = [0; 2048];
    let mut client = Client::udp(relay.address);
    let allocate = client.plain(farcall_relay::stun::Class::Request, Method::ALLOCATE, &vec![]);
    reflector.send_to(&allocate, relay.address).unwrap();
    let (length, _) = reflector.recv_from(&mut buffer).unwrap();
    let code = Message::parse(&buffer[..length]).unwrap().find(AttributeType::ERROR_CODE).unwrap();
    assert_eq!(ErrorCode::parse(code), Some(ErrorCode::UNAUTHENTICATED));
    reflector.send_to(&buffer[..length], relay.address).unwrap();
    reflector
        .send_to(&client.plain(farcall_relay::stun::Class::Request, Method::BINDING, &vec![]), relay.address)
        .unwrap();
    let (length, _) = reflector.recv_from(&mut buffer).unwrap();
    assert_eq!(Message::parse(&buffer[..length]).unwrap().method(), Method::BINDING);
}
