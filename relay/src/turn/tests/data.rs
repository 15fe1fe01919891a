//! RFC 8656, sections 10 and 11.

use super::*;

#[test]
fn a_send_indication_becomes_a_datagram_and_a_datagram_a_data_indication() {
    let mut world = World::new();
    let client = world.allocated();
    world.permit(&client, PEER);
    world.send(&client, PEER, b"out");
    let peer = PeerAddr(PEER.parse().unwrap());
    let (data, fragmentation) = (b"out".to_vec(), Fragmentation::Allowed);
    assert_eq!(
        world.actions(),
        [Action::SendToPeer { allocation: AllocationId(0), peer, data, fragmentation }]
    );
    world.receive(0, PEER, b"in");
    let actions = world.actions();
    let [Action::SendToClient { flow, message, data_bytes: 2, .. }] = &actions[..] else { panic!() };
    let message = crate::stun::Message::parse(message).unwrap();
    assert_eq!((*flow, message.class(), message.method()), (client.flow, Class::Indication, Method::DATA));
    assert_eq!(message.find(AttributeType::DATA), Some(&b"in"[..]));
    assert_eq!(message.find_xor_address(AttributeType::XOR_PEER_ADDRESS), Some(peer.0));
}

#[test]
fn dont_fragment_goes_with_its_datagram() {
    let mut world = World::new();
    let client = world.allocated();
    world.permit(&client, PEER);
    let attributes =
        vec![world.peer(PEER), (AttributeType::DATA, b"x".to_vec()), (AttributeType::DONT_FRAGMENT, vec![])];
    let id = world.transaction_id();
    world.deliver(client.flow, &unsigned(Class::Indication, Method::SEND, id, &attributes));
    let [Action::SendToPeer { fragmentation: Fragmentation::Forbidden, .. }] = world.actions()[..] else {
        panic!()
    };
}

#[test]
fn a_broken_send_indication_ends_in_silence() {
    let mut world = World::new();
    let client = world.allocated();
    world.permit(&client, PEER);
    let data = (AttributeType::DATA, b"x".to_vec());
    for attributes in
        [vec![data.clone()], vec![(AttributeType::XOR_PEER_ADDRESS, vec![1]), data.clone()], vec![]]
    {
        let id = world.transaction_id();
        world.deliver(client.flow, &unsigned(Class::Indication, Method::SEND, id, &attributes));
        assert!(world.is_silent());
    }
    let attributes = vec![world.peer(PEER), data, (AttributeType(0x7f00), vec![])];
    let id = world.transaction_id();
    world.deliver(client.flow, &unsigned(Class::Indication, Method::SEND, id, &attributes));
    assert!(world.is_silent(), "an unknown comprehension-required attribute");
}

#[test]
fn data_too_long_for_an_indication_is_dropped_and_the_longest_fits() {
    let mut world = World::new();
    let client = world.allocated();
    world.permit(&client, PEER);
    world.receive(0, PEER, &vec![1; 65507]);
    assert_eq!(world.actions().len(), 1);
    world.receive(0, PEER, &vec![1; 65535]);
    assert!(world.is_silent());
    assert_eq!(world.counted("dropped_datagrams_total{reason=\"too_long\"}"), 1);
}

#[test]
fn data_of_another_clients_flow_goes_nowhere() {
    let mut world = World::new();
    let client = world.allocated();
    world.bind(&client, 0x4000, PEER);
    world.actions();
    let spoofer = world.client("192.0.2.7:4001");
    world.send_by_channel(&spoofer, 0x4000, b"x");
    world.send(&spoofer, PEER, b"x");
    assert!(world.is_silent());
}
