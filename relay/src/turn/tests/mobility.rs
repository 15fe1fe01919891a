//! RFC 8016.

use super::*;

const ELSEWHERE: &str = "203.0.113.50:9000";

fn ticket_of(answer: &Answer) -> Vec<u8> {
    answer.message().find(AttributeType::MOBILITY_TICKET).expect("a ticket").to_vec()
}

fn with_ticket(ticket: &[u8]) -> Attributes {
    vec![(AttributeType::MOBILITY_TICKET, ticket.to_vec())]
}

/// A client with an allocation and a channel, and its ticket.
fn mobile(world: &mut World) -> (Client, Vec<u8>) {
    let client = world.client(CLIENT);
    let answer = world.ask(&client, Method::ALLOCATE, udp_and(AttributeType::MOBILITY_TICKET, &[]));
    assert_eq!(answer.code, None);
    let ticket = ticket_of(&answer);
    world.bind(&client, 0x4000, PEER);
    world.actions();
    (client, ticket)
}

/// To whom data from the peer goes now.
fn heard_by(world: &mut World) -> String {
    world.receive(0, PEER, b"data");
    match &world.actions()[..] {
        [Action::SendToClient { flow, .. }] => flow.client.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_takes_its_allocation_along_and_the_old_address_is_good_until_the_new_one_is_used() {
    let mut world = World::new();
    let (old, ticket) = mobile(&mut world);
    let new = world.client(ELSEWHERE);
    let answer = world.ask(&new, Method::REFRESH, with_ticket(&ticket));
    assert_eq!(answer.code, None);
    assert_ne!(ticket_of(&answer), ticket);
    assert_eq!(heard_by(&mut world), CLIENT);
    world.send_by_channel(&old, 0x4000, b"from the old address");
    assert!(matches!(&world.actions()[..], [Action::SendToPeer { .. }]));

    world.send_by_channel(&new, 0x4000, b"from the new address");
    let [Action::RemoveRoute(before), Action::InstallRoute(after), Action::SendToPeer { .. }] =
        world.actions()[..]
    else {
        panic!("the route follows, then the data goes")
    };
    assert_eq!((before.flow, after.flow), (old.flow, new.flow));
    assert_eq!(heard_by(&mut world), ELSEWHERE);
    world.send_by_channel(&old, 0x4000, b"from the old address");
    assert!(world.is_silent());
    let peer = world.peer(PEER);
    assert_eq!(world.code(&old, Method::CREATE_PERMISSION, vec![peer]), Some(437));
    world.permit(&new, PEER);
    world.advance(600 * SECOND);
    assert_eq!(world.server.allocation_count(), 0);
    assert!(world.server.mobiles.is_empty());
}

#[test]
fn every_kind_of_use_is_a_use() {
    for method in [Method::CREATE_PERMISSION, Method::CHANNEL_BIND, Method::REFRESH, Method::SEND] {
        let mut world = World::new();
        let (_, ticket) = mobile(&mut world);
        let new = world.client(ELSEWHERE);
        assert_eq!(world.code(&new, Method::REFRESH, with_ticket(&ticket)), None);
        match method {
            Method::CREATE_PERMISSION => world.permit(&new, PEER),
            Method::CHANNEL_BIND => world.bind(&new, 0x4000, PEER),
            Method::REFRESH => assert_eq!(world.code(&new, method, vec![]), None),
            _ => world.send(&new, PEER, b"data"),
        }
        world.actions();
        assert_eq!(heard_by(&mut world), ELSEWHERE);
    }
}

#[test]
fn a_ticket_is_of_no_use_with_another_users_credentials() {
    let mut world = World::new();
    let (_, ticket) = mobile(&mut world);
    let thief = world.client_as(ELSEWHERE, "bob", "wonder");
    assert_eq!(world.code(&thief, Method::REFRESH, with_ticket(&ticket)), Some(441));
    let guesser = world.client_as(ELSEWHERE, "alice", "guess");
    assert_eq!(world.code(&guesser, Method::REFRESH, with_ticket(&ticket)), Some(401));
    let mut without_nonce = world.client(ELSEWHERE);
    without_nonce.nonce = b"made up".to_vec();
    assert_eq!(world.code(&without_nonce, Method::REFRESH, with_ticket(&ticket)), Some(438));
    world.send_by_channel(&thief, 0x4000, b"data");
    assert!(world.is_silent());
    assert_eq!(heard_by(&mut world), CLIENT);
}

#[test]
fn what_is_no_ticket_is_a_400_and_an_old_one_a_437() {
    let mut world = World::new();
    let (old, first) = mobile(&mut world);
    let new = world.client(ELSEWHERE);
    for text in [&b""[..], b"made up", &[b'A'; 32], &[0xff; 500]] {
        assert_eq!(world.code(&new, Method::REFRESH, with_ticket(text)), Some(400));
        assert_eq!(
            world.code(&old, Method::REFRESH, with_ticket(text)),
            Some(400),
            "from the old address, too"
        );
    }
    assert_eq!(
        world.code(&new, Method::ALLOCATE, udp_and(AttributeType::MOBILITY_TICKET, &first)),
        Some(400)
    );
    let second = ticket_of(&world.ask(&new, Method::REFRESH, with_ticket(&first)));
    world.permit(&new, PEER);
    let third = world.client("203.0.113.51:9000");
    assert_eq!(world.code(&third, Method::REFRESH, with_ticket(&first)), Some(437), "replayed");
    assert_eq!(world.code(&third, Method::REFRESH, with_ticket(&second)), None);
    assert_eq!(world.code(&new, Method::REFRESH, vec![lifetime(0)]), None);
    assert_eq!(world.code(&third, Method::REFRESH, with_ticket(&second)), Some(437), "ended");
    assert!(world.server.mobiles.is_empty());
}

#[test]
fn a_lost_answer_costs_nothing() {
    let mut world = World::new();
    let (_, ticket) = mobile(&mut world);
    let new = world.client(ELSEWHERE);
    let request = world.request(&new, Method::REFRESH, &with_ticket(&ticket));
    world.deliver(new.flow, &request);
    let first = world.answer();
    world.deliver(new.flow, &request);
    assert_eq!(world.answer(), first);
    assert_eq!(heard_by(&mut world), CLIENT, "the same question again is no use");
    // The client gave up on that address; from a third one the ticket it knows is still good.
    let third = world.client("203.0.113.51:9000");
    assert_eq!(world.code(&third, Method::REFRESH, with_ticket(&ticket)), None);
    world.send_by_channel(&new, 0x4000, b"data");
    assert!(world.is_silent(), "nobody is expected there any more");
    world.send_by_channel(&third, 0x4000, b"data");
    world.actions();
    assert_eq!(heard_by(&mut world), "203.0.113.51:9000");
}

#[test]
fn an_allocation_that_was_not_made_mobile_stays() {
    let mut world = World::new();
    let client = world.allocated();
    let answer = world.ask(&client, Method::REFRESH, vec![]);
    assert_eq!(answer.message().find(AttributeType::MOBILITY_TICKET), None);
    assert!(world.server.mobiles.is_empty());
}

#[test]
fn a_flood_of_tickets_leaves_two_good_ones() {
    let mut world = World::new();
    let (client, mut ticket) = mobile(&mut world);
    let mut old = Vec::new();
    for _ in 0..500 {
        let answer = world.ask(&client, Method::REFRESH, with_ticket(&ticket));
        assert_eq!(answer.code, None);
        old.push(std::mem::replace(&mut ticket, ticket_of(&answer)));
    }
    let new = world.client(ELSEWHERE);
    old.pop();
    for gone in old {
        assert_eq!(world.code(&new, Method::REFRESH, with_ticket(&gone)), Some(437));
    }
    assert_eq!(world.code(&new, Method::REFRESH, with_ticket(&ticket)), None);
}

#[test]
fn a_mobile_client_outlives_its_stream_and_any_other_does_not() {
    let mut world = World::new();
    let (old, ticket) = mobile(&mut world);
    world.server.handle_flow_closed(old.flow);
    world.act();
    assert_eq!(world.server.allocation_count(), 1);
    let new = world.client(ELSEWHERE);
    assert_eq!(world.code(&new, Method::REFRESH, with_ticket(&ticket)), None);
    world.server.handle_flow_closed(new.flow);
    world.send_by_channel(&new, 0x4000, b"data");
    assert!(matches!(&world.actions()[..], []), "it left before it arrived");
    let answer = world.ask(&new, Method::REFRESH, with_ticket(&ticket));
    assert_eq!(answer.code, None, "it may come again");
    world.server.handle_flow_closed(old.flow);
    world.act();
    world.actions();
    assert_eq!(heard_by(&mut world), ELSEWHERE, "with the old way gone there is but the new one");
}

#[test]
fn both_families_move_together() {
    let mut world = World::with(|config| config.addresses.relay_v6 = Some("2606:4700::1".parse().unwrap()));
    let client = world.client(CLIENT);
    let both = [
        udp_and(AttributeType::ADDITIONAL_ADDRESS_FAMILY, &[2, 0, 0, 0]),
        vec![(AttributeType::MOBILITY_TICKET, vec![])],
    ];
    let answer = world.ask(&client, Method::ALLOCATE, both.concat());
    let new = world.client(ELSEWHERE);
    assert_eq!(world.code(&new, Method::REFRESH, with_ticket(&ticket_of(&answer))), None);
    world.permit(&new, PEER);
    world.permit(&new, "[2606:4700::2]:5000");
    assert_eq!(world.code(&new, Method::REFRESH, vec![lifetime(0)]), None);
    assert_eq!(world.server.allocation_count(), 0);
}

#[test]
fn a_handle_of_another_worker_is_handed_over_and_a_made_up_one_is_not() {
    let mut world = World::new();
    let new = world.client(ELSEWHERE);
    let handles = world.server.parts.handles.of_worker(1);
    let ticket = handles.ticket_text(handles.new_ticket(&mut world.server.parts.rng));
    let request = world.request(&new, Method::REFRESH, &with_ticket(&ticket));
    world.deliver(new.flow, &request);
    assert_eq!(world.actions(), [Action::HandOver { flow: new.flow, worker: 1, message: request }]);

    let token = handles.new_token(&mut world.server.parts.rng);
    let request = world.request(&new, Method::ALLOCATE, &udp_and(AttributeType::RESERVATION_TOKEN, &token));
    world.deliver(new.flow, &request);
    assert_eq!(world.actions(), [Action::HandOver { flow: new.flow, worker: 1, message: request }]);
    let stranger = world.client_as(ELSEWHERE, "alice", "guess");
    let attributes = udp_and(AttributeType::RESERVATION_TOKEN, &token);
    assert_eq!(world.code(&stranger, Method::ALLOCATE, attributes), Some(401), "strangers are not passed on");
    for first in 0..200u8 {
        let made_up = udp_and(AttributeType::RESERVATION_TOKEN, &[first; 8]);
        let request = world.request(&new, Method::ALLOCATE, &made_up);
        world.deliver(new.flow, &request);
        match world.actions().pop() {
            Some(Action::Respond { .. } | Action::HandOver { worker: 1, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}
