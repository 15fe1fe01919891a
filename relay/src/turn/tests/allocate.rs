//! RFC 8656, section 7.

use super::*;

#[test]
fn an_allocation_says_where_it_is_for_how_long_and_whose() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let answer = world.ask(&client, Method::ALLOCATE, udp());
    let message = answer.message();
    assert_eq!(message.find_xor_address(AttributeType::XOR_RELAYED_ADDRESS), Some(world.opened[0].0));
    assert_eq!(message.find_xor_address(AttributeType::XOR_MAPPED_ADDRESS), Some(client.flow.client.0));
    assert_eq!(message.find(AttributeType::LIFETIME), Some(&600u32.to_be_bytes()[..]));
    assert_eq!(world.counted("allocations_created_total"), 1);
    assert_eq!(world.counted("requests_total{method=\"allocate\",result=\"success\"}"), 1);
}

#[test]
fn a_retransmitted_allocate_is_answered_alike_and_another_is_a_437() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let request = world.request(&client, Method::ALLOCATE, &udp());
    world.deliver(client.flow, &request);
    let first = world.answer();
    world.deliver(client.flow, &request);
    assert_eq!(world.answer(), first);
    assert_eq!(world.opened.len(), 1);
    assert_eq!(world.code(&client, Method::ALLOCATE, udp()), Some(437));
    assert_eq!(world.server.allocation_count(), 1);
}

#[test]
fn the_transport_must_be_there_and_be_one_that_is_relayed() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let transport = |value: &[u8]| vec![(AttributeType::REQUESTED_TRANSPORT, value.to_vec())];
    assert_eq!(world.code(&client, Method::ALLOCATE, vec![]), Some(400));
    assert_eq!(world.code(&client, Method::ALLOCATE, transport(&[17])), Some(400));
    assert_eq!(world.code(&client, Method::ALLOCATE, transport(&[132, 0, 0, 0])), Some(442));
    assert_eq!(world.server.allocation_count(), 0);
}

#[test]
fn a_family_without_a_relay_address_is_a_440() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let family = |value: &[u8]| udp_and(AttributeType::REQUESTED_ADDRESS_FAMILY, value);
    assert_eq!(world.code(&client, Method::ALLOCATE, family(&[2, 0, 0, 0])), Some(440));
    assert_eq!(world.code(&client, Method::ALLOCATE, family(&[9, 0, 0, 0])), Some(440));
    assert_eq!(world.code(&client, Method::ALLOCATE, family(&[1])), Some(400));
    assert_eq!(world.code(&client, Method::ALLOCATE, family(&[1, 0, 0, 0])), None);
}

#[test]
fn an_ipv6_relay_is_made_on_request_and_takes_ipv6_peers_only() {
    let mut world = World::with(|config| config.addresses.relay_v6 = Some("2606:4700::1".parse().unwrap()));
    let client = world.client(CLIENT);
    let attributes = udp_and(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]);
    assert_eq!(world.code(&client, Method::ALLOCATE, attributes), None);
    assert!(world.opened[0].0.is_ipv6());
    let v4 = world.peer(PEER);
    assert_eq!(world.code(&client, Method::CREATE_PERMISSION, vec![v4]), Some(443));
    world.permit(&client, "[2606:4700::2]:5000");
    let family = |value: u8| vec![(AttributeType::REQUESTED_ADDRESS_FAMILY, vec![value, 0, 0, 0])];
    assert_eq!(world.code(&client, Method::REFRESH, family(1)), Some(443));
    assert_eq!(world.code(&client, Method::REFRESH, family(2)), None);
}

#[test]
fn an_even_port_is_even() {
    let mut world = World::new();
    for port in 1..30 {
        let client = world.client(&format!("192.0.2.8:{port}"));
        assert_eq!(world.code(&client, Method::ALLOCATE, udp_and(AttributeType::EVEN_PORT, &[0])), None);
    }
    assert!(world.opened.iter().all(|relayed| relayed.0.port() % 2 == 0));
}

#[test]
fn a_taken_port_leads_to_another_and_none_left_to_a_508() {
    let mut world = World::with(|config| config.addresses.ports = 50000..=50002);
    let client = world.client(CLIENT);
    world.relay_results = vec![Err(RelayError::AddressInUse); 2];
    assert_eq!(world.code(&client, Method::ALLOCATE, udp()), None);
    let mut tried: Vec<_> = world.opened.iter().map(|relayed| relayed.0.port()).collect();
    tried.sort_unstable();
    assert_eq!(tried, [50000, 50001, 50002]);

    let other = world.client("192.0.2.8:1");
    world.relay_results = vec![Err(RelayError::AddressInUse); 3];
    assert_eq!(world.code(&other, Method::ALLOCATE, udp()), Some(508));
    assert_eq!(world.code(&other, Method::ALLOCATE, udp()), None, "nothing is left of the failed one");
}

#[test]
fn a_reached_quota_is_a_486_and_a_missing_socket_a_508() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    world.relay_results = vec![Err(RelayError::QuotaReached), Err(RelayError::Unavailable)];
    assert_eq!(world.code(&client, Method::ALLOCATE, udp()), Some(486));
    assert_eq!(world.code(&client, Method::ALLOCATE, udp()), Some(508));
    assert_eq!(world.server.allocation_count(), 0);
    assert!(world.is_silent(), "there is no relay to close");
}

#[test]
fn behind_a_nat_the_outside_address_is_advertised() {
    let mut world =
        World::with(|config| config.addresses.external_v4 = Some("203.0.113.77".parse().unwrap()));
    let client = world.client(CLIENT);
    let answer = world.ask(&client, Method::ALLOCATE, udp());
    let advertised = answer.message().find_xor_address(AttributeType::XOR_RELAYED_ADDRESS).unwrap();
    assert_eq!(advertised.ip().to_string(), "203.0.113.77");
    assert_eq!(advertised.port(), world.opened[0].0.port());
}
