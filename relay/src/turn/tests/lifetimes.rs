//! RFC 8656, section 8.

use super::*;

#[test]
fn an_expired_allocation_closes_its_relay() {
    let mut world = World::new();
    let client = world.allocated();
    world.advance(600 * SECOND - Duration::from_nanos(1));
    assert!(world.is_silent());
    world.advance(Duration::from_nanos(1));
    assert_eq!(world.actions(), [Action::CloseRelay { allocation: AllocationId(0) }]);
    let client = world.client(&client.flow.client.to_string());
    assert_eq!(world.code(&client, Method::REFRESH, vec![]), Some(437));
    assert_eq!(world.counted("allocations"), 0);
}

#[test]
fn a_refresh_extends_and_a_refresh_of_zero_ends() {
    let mut world = World::new();
    let client = world.allocated();
    world.advance(500 * SECOND);
    let answer = world.ask(&client, Method::REFRESH, vec![lifetime(1800)]);
    assert_eq!(answer.message().find(AttributeType::LIFETIME), Some(&1800u32.to_be_bytes()[..]));
    world.advance(1799 * SECOND);
    assert!(world.is_silent());
    let client = world.client(CLIENT);
    let answer = world.ask(&client, Method::REFRESH, vec![lifetime(0)]);
    assert_eq!(answer.message().find(AttributeType::LIFETIME), Some(&0u32.to_be_bytes()[..]));
    assert_eq!(world.actions(), [Action::CloseRelay { allocation: AllocationId(0) }]);
    assert_eq!(world.server.poll_timeout(), None);
    assert_eq!(world.code(&client, Method::ALLOCATE, udp()), None, "the 5-tuple is free again");
}

#[test]
fn a_closed_stream_ends_its_allocation_and_all_that_goes_with_it() {
    let mut world = World::new();
    let client = world.allocated();
    world.bind(&client, 0x4000, PEER);
    world.actions();
    world.server.handle_flow_closed(client.flow);
    world.act();
    let [Action::RemoveRoute(_), Action::CloseRelay { .. }] = world.actions()[..] else { panic!() };
    assert_eq!(world.server.poll_timeout(), None);
}
