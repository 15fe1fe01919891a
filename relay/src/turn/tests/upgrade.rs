//! Another process goes on with what a snapshot says. That any sequence survives it is in `model.rs`.

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;

#[test]
fn a_retransmitted_allocate_is_answered_alike_after_an_upgrade() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let request = world.request(&client, Method::ALLOCATE, &udp());
    world.deliver(client.flow, &request);
    let before = world.answer();
    world.upgrade();
    world.deliver(client.flow, &request);
    assert_eq!(world.answer(), before);
    assert_eq!(world.code(&client, Method::ALLOCATE, udp()), Some(437));
}

#[test]
fn a_reserved_port_and_a_lately_ended_allocation_survive_an_upgrade() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let mut asked = udp();
    asked.push((AttributeType::EVEN_PORT, vec![0x80]));
    let answer = world.ask(&client, Method::ALLOCATE, asked);
    let token = answer.message().find(AttributeType::RESERVATION_TOKEN).unwrap().to_vec();
    let request = world.request(&client, Method::REFRESH, &vec![lifetime(0)]);
    world.deliver(client.flow, &request);
    let ended = world.answer();
    world.upgrade();
    world.deliver(client.flow, &request);
    assert_eq!(world.answer(), ended, "a retransmission");
    let other = world.client("192.0.2.7:4001");
    let mut asked = udp();
    asked.push((AttributeType::RESERVATION_TOKEN, token));
    assert_eq!(world.code(&other, Method::ALLOCATE, asked), None);
}

#[test]
fn what_another_process_goes_on_with_is_forgotten_without_a_word() {
    let mut world = World::new();
    let client = world.allocated();
    world.bind(&client, 0x4000, PEER);
    world.actions();
    let went = world.server.forget(|flow| flow.transport == Transport::Udp);
    assert_eq!(went, [AllocationId(0)]);
    world.act();
    let is_quiet = |action: &Action| matches!(action, Action::RemoveRoute(_) | Action::CloseRelay { .. });
    assert!(world.actions().iter().all(is_quiet));
    assert_eq!((world.server.allocation_count(), world.server.poll_departure(AllocationId(0))), (0, None));
    assert_eq!(world.counted("allocations_ended_total{reason=\"handed_over\"}"), 1);
    world.advance(Duration::from_secs(4000));
    assert!(world.is_silent());
}

#[test]
fn a_client_that_was_about_to_move_moves_after_an_upgrade_and_tickets_stay_good() {
    let ticket_of = |answer: &Answer| answer.message().find(AttributeType::MOBILITY_TICKET).unwrap().to_vec();
    let mut world = World::new();
    let client = world.client(CLIENT);
    let answer = world.ask(&client, Method::ALLOCATE, udp_and(AttributeType::MOBILITY_TICKET, &[]));
    let first = ticket_of(&answer);
    world.bind(&client, 0x4000, PEER);
    let next = world.client("203.0.113.50:9000");
    let request = world.request(&next, Method::REFRESH, &vec![(AttributeType::MOBILITY_TICKET, first)]);
    world.deliver(next.flow, &request);
    let moved = world.answer();
    world.upgrade();
    world.actions();
    world.deliver(next.flow, &request);
    assert_eq!(world.answer().code, moved.code, "a retransmission is no use of the new address");
    for (from, is_heard) in [(&client, true), (&next, true), (&client, false)] {
        world.send_by_channel(from, 0x4000, b"data");
        let is_data = |action: &Action| matches!(action, Action::SendToPeer { .. });
        assert_eq!(world.actions().iter().any(is_data), is_heard);
    }
    world.upgrade();
    let last = world.client("203.0.113.51:9000");
    let ticket = vec![(AttributeType::MOBILITY_TICKET, ticket_of(&moved))];
    assert_eq!(world.code(&last, Method::REFRESH, ticket), None);
    world.upgrade();
    assert_eq!(world.code(&last, Method::REFRESH, vec![lifetime(0)]), None);
    assert!(world.server.mobiles.is_empty() && world.server.allocation_count() == 0);
}

/// Only who cannot go stays, and who is on the way to somewhere that goes, goes.
#[test]
fn who_goes_goes_whole_and_who_stays_stays_whole() {
    let mut world = World::new();
    let mut by_tcp = world.client(CLIENT);
    by_tcp.flow.transport = Transport::Tcp;
    let by_udp = world.allocated_at("192.0.2.9:4000");
    let answer = world.ask(&by_tcp, Method::ALLOCATE, udp_and(AttributeType::MOBILITY_TICKET, &[]));
    let ticket = answer.message().find(AttributeType::MOBILITY_TICKET).unwrap().to_vec();
    let goes = |flow: &FiveTuple| flow.transport == Transport::Udp;
    let now = world.now().instant;
    assert_eq!(world.server.snapshot(now, goes).ids().collect::<Vec<_>>(), [AllocationId(0)]);
    let arrives = world.client("192.0.2.10:4000");
    let ticket = vec![(AttributeType::MOBILITY_TICKET, ticket)];
    assert_eq!(world.code(&arrives, Method::REFRESH, ticket), None);
    assert_eq!(world.server.snapshot(now, goes).ids().count(), 2);
    assert_eq!(world.server.forget(goes), [AllocationId(0), AllocationId(1)]);
    assert!(world.server.mobiles.is_empty() && world.server.deadlines.len() == 0);
    assert_eq!(world.code(&by_udp, Method::REFRESH, vec![]), Some(437));
}

thread_local! {
    /// One with something of everything, made once: signing takes its time.
    static SNAPSHOT: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn snapshot() -> String {
    let made = || {
        let mut world = World::new();
        let client = world.client(CLIENT);
        assert_eq!(world.code(&client, Method::ALLOCATE, udp_and(AttributeType::MOBILITY_TICKET, &[])), None);
        world.bind(&client, 0x4000, PEER);
        let other = world.client("192.0.2.9:4000");
        assert_eq!(world.code(&other, Method::ALLOCATE, udp_and(AttributeType::EVEN_PORT, &[0x80])), None);
        let third = world.allocated_at("192.0.2.10:4000");
        assert_eq!(world.code(&third, Method::REFRESH, vec![lifetime(0)]), None);
        serde_json::to_string(&world.server.snapshot(world.now().instant, |_| true)).unwrap()
    };
    SNAPSHOT.with(|kept| kept.borrow_mut().get_or_insert_with(made).clone())
}

/// Restores it if it can be, and asks what there is.
fn restore(snapshot: &str) -> bool {
    let Ok(snapshot) = serde_json::from_str::<Snapshot>(snapshot) else { return false };
    let mut world = World::new();
    let now = world.now().instant;
    let Ok(restored) = world.server.restore(now, snapshot) else { return false };
    assert_eq!(world.server.allocation_count(), restored.len());
    world.act();
    // What was restored may be anything that a snapshot can say, the last free place included.
    let newcomer = world.client("203.0.113.200:61234");
    world.code(&newcomer, Method::ALLOCATE, udp());
    world.advance(Duration::from_secs(3600));
    true
}

#[test]
fn a_snapshot_that_nobody_made_is_refused() {
    let good = snapshot();
    assert!(restore(&good));
    for (before, after) in [
        ("\"id\":1", "\"id\":0"),
        ("\"id\":1", "\"id\":18446744073709551615"),
        ("\"id\":1", "\"id\":4000000000"),
        ("\"secs\":300", "\"secs\":18446744073709551615"),
        ("\"secs\":600", "\"secs\":9223372036854775807"),
        ("[[16384,", "[[16383,"),
    ] {
        assert!(good.contains(before), "{before} in {good}");
        assert!(!restore(&good.replacen(before, after, 1)), "{before} became {after}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_snapshot_is_a_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), "[0-9a-zA-Z\"\\[\\]{},:.-]"), 1..4)) {
        let mut bytes = snapshot().into_bytes();
        for (at, by) in changes {
            let at = at.index(bytes.len());
            bytes[at] = by.as_bytes()[0];
        }
        restore(&String::from_utf8(bytes).unwrap());
    }
}
