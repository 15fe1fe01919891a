//! RFC 8656, section 11.5.

use super::*;
use crate::stun::Message;

/// What the client is told, if anything.
fn report(world: &mut World, peer: &str, kind: u8, code: u8, mtu: u32) -> Vec<Vec<u8>> {
    let error = IcmpError { peer: PeerAddr(peer.parse().unwrap()), kind, code, mtu };
    world.server.handle_icmp(AllocationId(0), error);
    world.act();
    match &world.actions()[..] {
        [] => vec![],
        [Action::SendToClient { message, data_bytes: 0, .. }] => {
            let message = Message::parse(message).unwrap();
            assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
            let peer_said = message.find_xor_address(AttributeType::XOR_PEER_ADDRESS).unwrap();
            assert_eq!(peer_said.to_string(), peer);
            assert_eq!(message.find(AttributeType::DATA), None);
            vec![message.find(AttributeType::ICMP).unwrap().to_vec()]
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_network_says_about_a_peer_reaches_the_client() {
    let mut world = World::new();
    let client = world.allocated();
    world.permit(&client, PEER);
    world.actions();
    assert_eq!(report(&mut world, PEER, 3, 3, 1400), [[0, 0, 3 << 1, 3, 0, 0, 0, 0]], "no port");
    assert_eq!(report(&mut world, PEER, 3, 4, 1400), [[0, 0, 3 << 1, 4, 0, 0, 5, 120]], "too big");
    assert_eq!(report(&mut world, PEER, 11, 0, 0), [[0, 0, 11 << 1, 0, 0, 0, 0, 0]]);
    assert!(report(&mut world, PEER, 5, 1, 0).is_empty(), "a redirect is our own affair");
    assert!(report(&mut world, "8.8.4.4:5000", 3, 3, 0).is_empty(), "no peer of this client");
}

#[test]
fn icmp_of_the_other_family_has_other_numbers() {
    let mut world = World::with(|config| config.addresses.relay_v6 = Some("2606:4700::1".parse().unwrap()));
    let client = world.client(CLIENT);
    let attributes = udp_and(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    assert_eq!(world.code(&client, Method::ALLOCATE, attributes), None);
    let peer = "[2606:4700::2]:5000";
    world.permit(&client, peer);
    world.actions();
    assert_eq!(report(&mut world, peer, 2, 0, 1280), [[0, 0, 2 << 1, 0, 0, 0, 5, 0]]);
    assert_eq!(report(&mut world, peer, 1, 4, 1280), [[0, 0, 1 << 1, 4, 0, 0, 0, 0]]);
    assert_eq!(report(&mut world, peer, 3, 0, 0), [[0, 0, 3 << 1, 0, 0, 0, 0, 0]]);
    assert!(report(&mut world, peer, 11, 0, 0).is_empty());
}
