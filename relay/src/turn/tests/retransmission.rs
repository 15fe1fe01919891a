//! An answer may be lost. The same request again gets the same answer, whatever it did the first time. RFC 8489, 6.3.1.

use super::*;

fn is_answered_alike(
    world: &mut World,
    client: &Client,
    method: Method,
    attributes: &Attributes,
) -> Option<u16> {
    let request = world.request(client, method, attributes);
    world.deliver(client.flow, &request);
    let first = world.answer();
    for pause in [0, 1, 38] {
        world.advance(pause * SECOND);
        world.deliver(client.flow, &request);
        assert_eq!(world.answer(), first, "{method:?}");
    }
    first.code.map(crate::stun::ErrorCode::number)
}

#[test]
fn every_method_answers_a_retransmission_alike() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let even = udp_and(AttributeType::EVEN_PORT, &[0]);
    assert_eq!(is_answered_alike(&mut world, &client, Method::ALLOCATE, &even), None);
    let peer = world.peer(PEER);
    assert_eq!(is_answered_alike(&mut world, &client, Method::CREATE_PERMISSION, &vec![peer]), None);
    let peer = world.peer(PEER);
    let bind = vec![channel_number(0x4000), peer];
    assert_eq!(is_answered_alike(&mut world, &client, Method::CHANNEL_BIND, &bind), None);
    assert_eq!(is_answered_alike(&mut world, &client, Method::REFRESH, &vec![lifetime(700)]), None);
    assert_eq!(is_answered_alike(&mut world, &client, Method::REFRESH, &vec![lifetime(0)]), None);
    assert_eq!(world.server.allocation_count(), 0);
    assert_eq!(world.code(&client, Method::REFRESH, vec![lifetime(0)]), Some(437), "another request");
}

#[test]
fn a_reservation_comes_with_the_same_token_again() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let request = world.request(&client, Method::ALLOCATE, &udp_and(AttributeType::EVEN_PORT, &[0x80]));
    world.deliver(client.flow, &request);
    let first = world.answer();
    world.deliver(client.flow, &request);
    assert_eq!(world.answer(), first);
    assert_eq!(world.opened.len(), 2);

    let token = first.message().find(AttributeType::RESERVATION_TOKEN).unwrap().to_vec();
    let second = world.client("192.0.2.7:4001");
    let with_token = udp_and(AttributeType::RESERVATION_TOKEN, &token);
    assert_eq!(is_answered_alike(&mut world, &second, Method::ALLOCATE, &with_token), None);
}

#[test]
fn an_end_is_remembered_for_as_long_as_it_may_come_again() {
    let mut world = World::new();
    let client = world.allocated();
    let request = world.request(&client, Method::REFRESH, &vec![lifetime(0)]);
    world.deliver(client.flow, &request);
    assert_eq!(world.answer().code, None);
    world.advance(40 * SECOND);
    world.deliver(client.flow, &request);
    assert_eq!(world.answer().code.unwrap().number(), 437);
}
