//! RFC 8489, section 10: where to go when there is no place.

use std::net::SocketAddr;

use super::*;
use crate::stun::ErrorCode;
use crate::stun::address::parse_plain;

fn world() -> World {
    let all = |addresses: [&str; 2]| addresses.map(|address| address.parse().unwrap()).to_vec();
    World::with(|config| {
        config.alternates = Alternates {
            plain: all(["203.0.113.20:3478", "[2001:db8::20]:3478"]),
            secure: all(["203.0.113.21:5349", "[2001:db8::21]:5349"]),
        };
    })
}

fn told(world: &mut World, address: &str, transport: Transport) -> (Option<u16>, Option<SocketAddr>) {
    let mut client = world.client(address);
    client.flow.transport = transport;
    let answer = world.ask(&client, Method::ALLOCATE, udp());
    let message = answer.message();
    assert!(message.verify_integrity(&client.key()), "an unsigned answer could send clients anywhere");
    (answer.code.map(ErrorCode::number), message.find(AttributeType::ALTERNATE_SERVER).and_then(parse_plain))
}

#[test]
fn a_server_that_drains_sends_clients_to_one_of_their_family_and_transport() {
    let mut world = world();
    world.server.admit(Admission::Closed);
    for (address, transport, elsewhere) in [
        (CLIENT, Transport::Udp, "203.0.113.20:3478"),
        (CLIENT, Transport::Tcp, "203.0.113.20:3478"),
        (CLIENT, Transport::Tls, "203.0.113.21:5349"),
        ("[2001:db8::9]:4000", Transport::Dtls, "[2001:db8::21]:5349"),
    ] {
        assert_eq!(told(&mut world, address, transport), (Some(300), elsewhere.parse().ok()));
    }
}

#[test]
fn a_server_without_others_just_has_no_place() {
    let mut world = World::new();
    world.server.admit(Admission::Closed);
    assert_eq!(told(&mut world, CLIENT, Transport::Udp), (Some(508), None));
}

#[test]
fn a_server_without_sockets_left_sends_clients_elsewhere_and_one_with_sockets_does_not() {
    let mut world = world();
    world.allocated();
    world.relay_results = vec![Err(RelayError::Unavailable)];
    assert_eq!(told(&mut world, "192.0.2.8:1", Transport::Udp).0, Some(300));
}
