//! Which peers, through every method.

use super::*;

#[test]
fn a_peer_out_of_bounds_is_refused_by_every_method_and_nothing_leaves() {
    let mut world = World::new();
    let client = world.allocated();
    for peer in
        ["127.0.0.1:80", "10.1.2.3:80", "169.254.169.254:80", "0.0.0.0:80", "224.0.0.1:80", "9.9.9.9:53"]
    {
        let address = world.peer(peer);
        assert_eq!(world.code(&client, Method::CREATE_PERMISSION, vec![address]), Some(403), "{peer}");
        assert_eq!(world.bind_code(&client, 0x4000, peer), Some(403), "{peer}");
        world.send(&client, peer, b"data");
        assert!(world.is_silent(), "{peer}");
    }
}

#[test]
fn our_own_listener_is_refused_even_where_our_relays_are_allowed() {
    let mut world = World::new();
    let client = world.allocated();
    world.permit(&client, &format!("{RELAY_IP}:50001"));
    world.send(&client, SERVER, b"loop");
    world.send(&client, &format!("{RELAY_IP}:22"), b"service");
    assert!(world.is_silent());
    assert_eq!(world.counted("dropped_datagrams_total{reason=\"peer_forbidden\"}"), 2);
    assert_eq!(world.bind_code(&client, 0x4000, SERVER), Some(403));
    assert_eq!(world.bind_code(&client, 0x4000, &format!("{RELAY_IP}:22")), Some(403));
}

#[test]
fn two_clients_of_one_server_reach_each_other_by_their_relayed_addresses() {
    let mut world = World::new();
    let (alice, bob) = (world.allocated_at("192.0.2.7:1"), world.allocated_at("192.0.2.8:1"));
    let (alice_relayed, bob_relayed) = (world.opened[0].to_string(), world.opened[1].to_string());
    world.bind(&alice, 0x4000, &bob_relayed);
    world.permit(&bob, &alice_relayed);
    world.actions();
    world.send_by_channel(&alice, 0x4000, b"hello");
    let [Action::SendToPeer { allocation: AllocationId(0), peer, .. }] = world.actions()[..] else {
        panic!()
    };
    assert_eq!(peer.to_string(), bob_relayed);
    world.receive(1, &alice_relayed, b"hello");
    assert!(matches!(world.actions()[..], [Action::SendToClient { flow, .. }] if flow == bob.flow));
}

#[test]
fn behind_a_nat_two_clients_of_one_server_reach_each_other_by_outside_addresses() {
    let mut world =
        World::with(|config| config.addresses.external_v4 = Some("203.0.113.77".parse().unwrap()));
    let (alice, bob) = (world.allocated_at("192.0.2.7:1"), world.allocated_at("192.0.2.8:1"));
    let (alice_port, bob_port) = (world.opened[0].0.port(), world.opened[1].0.port());
    world.bind(&alice, 0x4000, &format!("203.0.113.77:{bob_port}"));
    world.permit(&bob, &format!("203.0.113.77:{alice_port}"));
    let [Action::InstallRoute(route)] = world.actions()[..] else { panic!() };
    assert_eq!(route.peer.to_string(), format!("{RELAY_IP}:{bob_port}"), "sent inside");
    world.receive(1, &format!("{RELAY_IP}:{alice_port}"), b"hello");
    let actions = world.actions();
    let [Action::SendToClient { message, .. }] = &actions[..] else { panic!() };
    let message = crate::stun::Message::parse(message).unwrap();
    let from = message.find_xor_address(AttributeType::XOR_PEER_ADDRESS).unwrap();
    assert_eq!(from.to_string(), format!("203.0.113.77:{alice_port}"), "known from outside");
}
