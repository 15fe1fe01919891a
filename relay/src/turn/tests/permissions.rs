//! RFC 8656, section 9.

use super::*;

#[test]
fn a_permission_is_for_an_ip_address_whatever_the_port_for_300_seconds() {
    let mut world = World::new();
    let client = world.allocated();
    world.permit(&client, PEER);
    world.advance(299 * SECOND);
    world.receive(0, "8.8.8.8:77", b"data");
    assert_eq!(world.actions().len(), 1);
    world.advance(SECOND);
    world.receive(0, "8.8.8.8:77", b"data");
    world.send(&client, PEER, b"data");
    assert!(world.is_silent());
    assert_eq!(world.counted("dropped_datagrams_total{reason=\"no_permission\"}"), 2);
}

#[test]
fn one_request_permits_all_its_peers_or_none() {
    let mut world = World::new();
    let client = world.allocated();
    let peers = vec![world.peer("1.1.1.1:1"), world.peer("1.1.1.2:1"), world.peer("10.0.0.1:1")];
    assert_eq!(world.code(&client, Method::CREATE_PERMISSION, peers), Some(403));
    world.receive(0, "1.1.1.1:1", b"x");
    assert!(world.is_silent());
    let peers = vec![world.peer("1.1.1.1:1"), world.peer("1.1.1.2:1")];
    assert_eq!(world.code(&client, Method::CREATE_PERMISSION, peers), None);
    world.receive(0, "1.1.1.1:1", b"x");
    world.receive(0, "1.1.1.2:9", b"x");
    assert_eq!(world.actions().len(), 2);
}

#[test]
fn a_permission_request_without_a_good_peer_is_a_400_and_of_another_family_a_443() {
    let mut world = World::new();
    let client = world.allocated();
    assert_eq!(world.code(&client, Method::CREATE_PERMISSION, vec![]), Some(400));
    let broken = vec![(AttributeType::XOR_PEER_ADDRESS, vec![0, 1, 0])];
    assert_eq!(world.code(&client, Method::CREATE_PERMISSION, broken), Some(400));
    let v6 = world.peer("[2606:4700::1]:1");
    assert_eq!(world.code(&client, Method::CREATE_PERMISSION, vec![v6]), Some(443));
    let stranger = world.client("192.0.2.8:1");
    let peer = world.peer(PEER);
    assert_eq!(world.code(&stranger, Method::CREATE_PERMISSION, vec![peer]), Some(437));
}

#[test]
fn what_one_client_can_make_us_remember_is_bounded() {
    let mut world = World::new();
    let client = world.allocated();
    for number in 0..u32::try_from(permission::MAX_PERMISSIONS).unwrap() {
        world.permit(&client, &format!("{}:1", std::net::Ipv4Addr::from_bits(0x0800_0000 + number)));
    }
    let peer = world.peer("11.0.0.1:1");
    assert_eq!(world.code(&client, Method::CREATE_PERMISSION, vec![peer]), Some(508));
    assert_eq!(world.bind_code(&client, 0x4000, "11.0.0.1:1"), Some(508));
    world.permit(&client, "8.0.0.0:1");
}
