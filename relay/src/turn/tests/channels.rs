//! RFC 8656, section 12.

use super::*;

fn route(client: &Client, channel: u16) -> Route {
    let channel = ChannelNumber::new(channel).unwrap();
    Route { flow: client.flow, allocation: AllocationId(0), channel, peer: PeerAddr(PEER.parse().unwrap()) }
}

#[test]
fn a_bound_channel_carries_data_both_ways() {
    let mut world = World::new();
    let client = world.allocated();
    world.bind(&client, 0x4000, PEER);
    assert_eq!(world.actions(), [Action::InstallRoute(route(&client, 0x4000))]);
    world.send_by_channel(&client, 0x4000, b"out");
    let peer = PeerAddr(PEER.parse().unwrap());
    let (data, fragmentation) = (b"out".to_vec(), Fragmentation::Allowed);
    assert_eq!(
        world.actions(),
        [Action::SendToPeer { allocation: AllocationId(0), peer, data, fragmentation }]
    );
    world.receive(0, PEER, b"in");
    let message = vec![0x40, 0, 0, 2, b'i', b'n'];
    assert_eq!(
        world.actions(),
        [Action::SendToClient { allocation: AllocationId(0), flow: client.flow, message, data_bytes: 2 }]
    );
}

#[test]
fn channel_data_to_a_stream_is_padded_with_zeros() {
    let mut world = World::new();
    let mut client = world.client(CLIENT);
    client.flow.transport = Transport::Tcp;
    world.ask(&client, Method::ALLOCATE, udp());
    world.bind(&client, 0x4000, PEER);
    world.actions();
    world.receive(0, PEER, b"in");
    let message = vec![0x40, 0, 0, 2, b'i', b'n', 0, 0];
    assert_eq!(
        world.actions(),
        [Action::SendToClient { allocation: AllocationId(0), flow: client.flow, message, data_bytes: 2 }]
    );
}

#[test]
fn a_channel_is_one_peers_and_a_peer_has_one_channel() {
    let mut world = World::new();
    let client = world.allocated();
    world.bind(&client, 0x4000, PEER);
    world.bind(&client, 0x4000, PEER);
    assert_eq!(world.bind_code(&client, 0x4000, "8.8.8.8:5001"), Some(400));
    assert_eq!(world.bind_code(&client, 0x4001, PEER), Some(400));
    world.bind(&client, 0x4001, "8.8.8.8:5001");
}

#[test]
fn a_channel_number_outside_the_range_is_a_400() {
    let mut world = World::new();
    let client = world.allocated();
    for channel in [0, 0x3fff, 0x5000, 0x7fff, 0x8000, 0xffff] {
        assert_eq!(world.bind_code(&client, channel, PEER), Some(400), "{channel:#x}");
    }
    world.bind(&client, 0x4fff, PEER);
    let peer = world.peer(PEER);
    assert_eq!(world.code(&client, Method::CHANNEL_BIND, vec![peer]), Some(400));
    assert_eq!(world.code(&client, Method::CHANNEL_BIND, vec![channel_number(0x4001)]), Some(400));
}

#[test]
fn the_older_range_is_taken_where_the_operator_says_so() {
    let mut world = World::with(|config| config.channels = ChannelRange::Rfc5766);
    let client = world.allocated();
    world.bind(&client, 0x7fff, PEER);
    assert_eq!(world.bind_code(&client, 0x8000, "8.8.8.8:1"), Some(400));
}

#[test]
fn a_route_ends_with_its_permission_and_comes_back_with_it() {
    let mut world = World::new();
    let client = world.allocated();
    world.bind(&client, 0x4000, PEER);
    world.actions();
    world.advance(300 * SECOND);
    assert_eq!(world.actions(), [Action::RemoveRoute(route(&client, 0x4000))]);
    world.send_by_channel(&client, 0x4000, b"out");
    world.receive(0, PEER, b"in");
    assert!(world.is_silent());
    world.permit(&client, PEER);
    assert_eq!(world.actions(), [Action::InstallRoute(route(&client, 0x4000))]);
}

#[test]
fn a_channel_ends_after_600_seconds_and_its_permission_goes_on() {
    let mut world = World::new();
    let client = world.allocated();
    world.ask(&client, Method::REFRESH, vec![lifetime(3600)]);
    world.bind(&client, 0x4000, PEER);
    world.advance(299 * SECOND);
    world.permit(&client, PEER);
    world.advance(299 * SECOND);
    world.permit(&client, PEER);
    world.actions();
    world.advance(2 * SECOND);
    assert_eq!(world.actions(), [Action::RemoveRoute(route(&client, 0x4000))]);
    world.receive(0, PEER, b"in");
    let actions = world.actions();
    let [Action::SendToClient { message, data_bytes: 2, .. }] = &actions[..] else { panic!() };
    let header = Header::parse(message).unwrap();
    assert_eq!((header.class, header.method), (Class::Indication, Method::DATA));
    let client = world.client(CLIENT);
    assert_eq!(world.bind_code(&client, 0x4001, PEER), None, "the peer is free for another number");
}

#[test]
fn rebinding_renews_channel_and_permission() {
    let mut world = World::new();
    let client = world.allocated();
    world.ask(&client, Method::REFRESH, vec![lifetime(3600)]);
    world.bind(&client, 0x4000, PEER);
    world.actions();
    for _ in 0..4 {
        world.advance(299 * SECOND);
        let client = world.client(CLIENT);
        world.bind(&client, 0x4000, PEER);
    }
    assert!(world.is_silent());
    assert_eq!(world.server.deadlines.len(), 3, "allocation, permission, channel: once each");
}
