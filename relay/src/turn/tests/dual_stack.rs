//! ADDITIONAL-ADDRESS-FAMILY: one allocation of each family, told apart by their peers. RFC 8656, section 5.

use super::*;

const PEER_V6: &str = "[2606:4700::2]:5000";

fn world() -> World {
    World::with(|config| config.addresses.relay_v6 = Some("2606:4700::1".parse().unwrap()))
}

fn both() -> Attributes {
    udp_and(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0])
}

fn family(value: u8) -> (AttributeType, Vec<u8>) {
    (AttributeType::REQUESTED_ADDRESS_FAMILY, vec![value, 0, 0, 0])
}

fn relayed(answer: &Answer) -> Vec<std::net::SocketAddr> {
    let message = answer.message();
    let of_kind =
        message.attributes().filter(|attribute| attribute.kind == AttributeType::XOR_RELAYED_ADDRESS);
    of_kind
        .map(|found| crate::stun::address::parse_xor(found.value, &message.transaction_id()).unwrap())
        .collect()
}

fn allocated_both(world: &mut World) -> Client {
    let client = world.client(CLIENT);
    let answer = world.ask(&client, Method::ALLOCATE, both());
    assert_eq!((answer.code, relayed(&answer).len()), (None, 2));
    world.actions();
    client
}

#[test]
fn one_request_makes_an_allocation_of_each_family() {
    for kind in [AttributeType::ADDITIONAL_ADDRESS_FAMILY, AttributeType::DRAFT_ADDITIONAL_ADDRESS_FAMILY] {
        let mut world = world();
        let client = world.client(CLIENT);
        let request = world.request(&client, Method::ALLOCATE, &udp_and(kind, &[2, 0, 0, 0]));
        world.deliver(client.flow, &request);
        let answer = world.answer();
        let relayed = relayed(&answer);
        assert_eq!(relayed, world.opened.iter().map(|opened| opened.0).collect::<Vec<_>>());
        assert!(relayed[0].is_ipv4() && relayed[1].is_ipv6());
        assert_eq!(answer.message().find(AttributeType::ADDRESS_ERROR_CODE), None);
        world.deliver(client.flow, &request);
        assert_eq!(world.answer(), answer, "again the same");
        assert_eq!(world.code(&client, Method::ALLOCATE, both()), Some(437));
        assert_eq!(world.counted("allocations"), 2);
    }
}

#[test]
fn peers_of_each_family_are_reached_from_their_own() {
    let mut world = world();
    let client = allocated_both(&mut world);
    let attributes = [PEER, PEER_V6].map(|peer| world.peer(peer)).to_vec();
    assert_eq!(world.code(&client, Method::CREATE_PERMISSION, attributes), None);
    for (at, peer) in [PEER, PEER_V6].into_iter().enumerate() {
        world.send(&client, peer, b"data");
        let sent = world.actions();
        assert!(
            matches!(&sent[..], [Action::SendToPeer { allocation, .. }] if allocation.0 == at),
            "{sent:?}"
        );
        world.bind(&client, 0x4000 + u16::try_from(at).unwrap(), peer);
        world.actions();
        world.send_by_channel(&client, 0x4000 + u16::try_from(at).unwrap(), b"data");
        assert!(
            matches!(&world.actions()[..], [Action::SendToPeer { allocation, .. }] if allocation.0 == at)
        );
        world.receive(at, peer, b"data");
        assert!(matches!(&world.actions()[..], [Action::SendToClient { flow, .. }] if *flow == client.flow));
    }
    world.receive(1, PEER, b"data");
    assert!(world.is_silent(), "an IPv4 peer has no permission at the IPv6 relay");
}

#[test]
fn a_channel_number_is_one_peers_whatever_its_family() {
    let mut world = world();
    let client = allocated_both(&mut world);
    world.bind(&client, 0x4000, PEER);
    assert_eq!(world.bind_code(&client, 0x4000, PEER_V6), Some(400));
}

#[test]
fn a_refresh_is_about_one_family_or_all() {
    let mut world = world();
    let client = allocated_both(&mut world);
    world.permit(&client, PEER);
    world.permit(&client, PEER_V6);
    assert_eq!(world.code(&client, Method::REFRESH, vec![family(2), lifetime(0)]), None);
    assert_eq!(world.actions(), [Action::CloseRelay { allocation: AllocationId(1) }]);
    let v6 = world.peer(PEER_V6);
    assert_eq!(world.code(&client, Method::CREATE_PERMISSION, vec![v6]), Some(443));
    assert_eq!(world.code(&client, Method::REFRESH, vec![family(2)]), Some(443));
    world.send(&client, PEER, b"data");
    assert_eq!(world.actions().len(), 1, "the other one goes on");
    assert_eq!(world.code(&client, Method::REFRESH, vec![lifetime(0)]), None);
    assert_eq!(world.server.allocation_count(), 0);

    let client = allocated_both(&mut world);
    assert_eq!(world.code(&client, Method::REFRESH, vec![lifetime(3600)]), None);
    world.advance(3599 * SECOND);
    assert_eq!(world.server.allocation_count(), 2, "without a family both were meant");
    world.advance(SECOND);
    assert_eq!((world.server.allocation_count(), world.server.deadlines.len()), (0, 0));
}

#[test]
fn each_family_has_its_own_end() {
    let mut world = world();
    let client = allocated_both(&mut world);
    assert_eq!(world.code(&client, Method::REFRESH, vec![family(1), lifetime(3600)]), None);
    world.advance(600 * SECOND);
    assert_eq!(world.actions(), [Action::CloseRelay { allocation: AllocationId(1) }]);
    let client = world.client(CLIENT);
    world.permit(&client, PEER);
}

#[test]
fn where_one_family_fails_the_other_comes_with_the_reason() {
    let refused =
        |answer: &Answer| answer.message().find(AttributeType::ADDRESS_ERROR_CODE).map(<[u8]>::to_vec);
    // No IPv6 here at all.
    let mut world = World::new();
    let client = world.client(CLIENT);
    let request = world.request(&client, Method::ALLOCATE, &both());
    world.deliver(client.flow, &request);
    let answer = world.answer();
    assert_eq!((relayed(&answer).len(), refused(&answer)), (1, Some(vec![2, 0, 4, 40])));
    world.deliver(client.flow, &request);
    assert_eq!(world.answer(), answer);
    // No socket for one of them.
    let fails = Err(RelayError::Unavailable);
    for (results, family) in [(vec![Ok(()), fails], 2), (vec![fails], 1)] {
        let mut world = self::world();
        let client = world.client(CLIENT);
        world.relay_results = results;
        let answer = world.ask(&client, Method::ALLOCATE, both());
        assert_eq!((relayed(&answer).len(), refused(&answer)), (1, Some(vec![family, 0, 5, 8])));
        assert_eq!(relayed(&answer)[0].is_ipv4(), family == 2);
        assert_eq!(world.server.allocation_count(), 1);
    }
    let mut world = self::world();
    let client = world.client(CLIENT);
    world.relay_results = vec![fails, fails];
    assert_eq!(world.code(&client, Method::ALLOCATE, both()), Some(508));
    assert_eq!(world.server.allocation_count(), 0);
}

#[test]
fn the_end_of_a_stream_ends_both() {
    let mut world = world();
    let client = allocated_both(&mut world);
    world.server.handle_flow_closed(client.flow);
    world.act();
    assert_eq!(world.actions().len(), 2);
    assert_eq!(world.server.allocation_count(), 0);
}
