//! TCP allocations: who may have which connection, and until when. RFC 6062.

use std::time::Duration;

use super::super::world::{CLIENT, Client, PEER, World};
use super::super::*;
use crate::stun::{AttributeType, Class, ErrorCode, Message, Method};

const TCP: (AttributeType, [u8; 4]) = (AttributeType::REQUESTED_TRANSPORT, [6, 0, 0, 0]);

fn tcp() -> Vec<(AttributeType, Vec<u8>)> {
    vec![(TCP.0, TCP.1.to_vec())]
}

/// By a stream from this address.
fn by_stream(world: &mut World, address: &str, user: &str) -> Client {
    let mut client = world.client_as(address, user, "wonder");
    client.flow.transport = Transport::Tcp;
    client
}

fn allocated(world: &mut World) -> Client {
    let client = by_stream(world, CLIENT, "alice");
    assert_eq!(world.code(&client, Method::ALLOCATE, tcp()), None);
    client
}

/// Has the client connect to a peer, which says yes; returns the connection's number.
fn connected(world: &mut World, client: &Client, peer: &str) -> ConnectionId {
    let id = connecting(world, client, peer);
    world.server.handle_connected(world.now().instant, id, true);
    world.act();
    let answer = world.answer();
    assert_eq!(answer.code, None);
    assert_eq!(number(&answer.message()), Some(id));
    id
}

fn connecting(world: &mut World, client: &Client, peer: &str) -> ConnectionId {
    let attributes = vec![world.peer(peer)];
    let request = world.request(client, Method::CONNECT, &attributes);
    world.deliver(client.flow, &request);
    let wanted = world.actions();
    let [Action::Connect { connection, peer: at, .. }] = wanted.as_slice() else { panic!("{wanted:?}") };
    assert_eq!(at.0, peer.parse().unwrap());
    *connection
}

fn number(message: &Message<'_>) -> Option<ConnectionId> {
    let value = message.find(AttributeType::CONNECTION_ID)?.try_into().ok()?;
    Some(ConnectionId(u32::from_be_bytes(value)))
}

fn code(message: &Message<'_>) -> Option<u16> {
    Some(ErrorCode::parse(message.find(AttributeType::ERROR_CODE)?)?.number())
}

fn bind(world: &mut World, client: &Client, ConnectionId(id): ConnectionId) -> Option<u16> {
    world.code(
        client,
        Method::CONNECTION_BIND,
        vec![(AttributeType::CONNECTION_ID, id.to_be_bytes().to_vec())],
    )
}

fn incoming(world: &mut World, peer: &str) -> Option<ConnectionId> {
    let now = world.now().instant;
    world.server.handle_incoming(now, AllocationId(0), PeerAddr(peer.parse().unwrap()))
}

#[test]
fn tcp_is_relayed_for_streams_alone_and_without_what_is_for_datagrams() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    assert_eq!(world.code(&client, Method::ALLOCATE, tcp()), Some(400));
    for (kind, value) in [
        (AttributeType::EVEN_PORT, vec![0]),
        (AttributeType::RESERVATION_TOKEN, vec![0; 8]),
        (AttributeType::DONT_FRAGMENT, vec![]),
        (AttributeType::ADDITIONAL_ADDRESS_FAMILY, vec![2, 0, 0, 0]),
    ] {
        let client = by_stream(&mut world, CLIENT, "alice");
        let attributes = [tcp(), vec![(kind, value)]].concat();
        assert_eq!(world.code(&client, Method::ALLOCATE, attributes), Some(400), "{kind:?}");
    }
    allocated(&mut world);
    let mut refusing = World::with(|config| config.tcp_relay = TcpRelay::Refused);
    let client = by_stream(&mut refusing, CLIENT, "alice");
    assert_eq!(refusing.code(&client, Method::ALLOCATE, tcp()), Some(442));
}

#[test]
fn datagrams_and_channels_have_no_place_in_it() {
    let mut world = World::new();
    let client = allocated(&mut world);
    world.permit(&client, PEER);
    assert_eq!(world.bind_code(&client, 0x4000, PEER), Some(400));
    world.send(&client, PEER, b"datagram");
    world.receive(0, PEER, b"datagram");
    assert_eq!(world.actions(), []);
}

#[test]
fn a_connection_to_a_peer_waits_for_the_client_and_is_its_own() {
    let mut world = World::new();
    let client = allocated(&mut world);
    let id = connected(&mut world, &client, PEER);
    let data = by_stream(&mut world, "192.0.2.7:4001", "alice");
    assert_eq!(bind(&mut world, &client, id), Some(400), "the control connection");
    let by_datagram = world.client("192.0.2.7:4002");
    assert_eq!(bind(&mut world, &by_datagram, id), Some(400));
    let stranger = by_stream(&mut world, "192.0.2.9:4000", "bob");
    assert_eq!(bind(&mut world, &stranger, id), Some(441));
    assert_eq!(bind(&mut world, &data, id), None);
    assert_eq!(world.actions(), [Action::Splice { connection: id, flow: data.flow }]);
    assert_eq!(bind(&mut world, &data, id), Some(400), "it is taken");
    // From then on it lives as long as its allocation, or until an end closes it.
    world.advance(Duration::from_secs(300));
    assert_eq!(world.actions(), []);
    world.server.handle_connection_closed(id);
    assert_ne!(connected(&mut world, &client, PEER), id);
}

#[test]
fn there_is_one_connection_to_each_peer_at_a_time() {
    let mut world = World::new();
    let client = allocated(&mut world);
    connected(&mut world, &client, PEER);
    let again = vec![world.peer(PEER)];
    assert_eq!(world.code(&client, Method::CONNECT, again), Some(446));
    connected(&mut world, &client, "8.8.8.8:5001");
}

#[test]
fn whom_the_policy_forbids_nobody_connects_to_and_a_peer_must_be_named() {
    let mut world = World::new();
    let client = allocated(&mut world);
    for peer in
        ["127.0.0.1:80", "10.0.0.1:80", "9.9.9.9:80", "169.254.169.254:80", world::SERVER, "8.8.8.8:0"]
    {
        let attributes = vec![world.peer(peer)];
        assert_eq!(world.code(&client, Method::CONNECT, attributes), Some(403), "{peer}");
    }
    let v6 = vec![world.peer("[2001:4860:4860::8888]:80")];
    assert_eq!(world.code(&client, Method::CONNECT, v6), Some(443));
    assert_eq!(world.code(&client, Method::CONNECT, vec![]), Some(400));
    // Another client's relayed address will do, though the rest of this machine does not.
    let other = by_stream(&mut world, "192.0.2.8:4000", "bob");
    assert_eq!(world.code(&other, Method::ALLOCATE, tcp()), None);
    let relayed = world.opened.last().unwrap().0.to_string();
    connected(&mut world, &client, &relayed);
}

#[test]
fn only_a_tcp_allocation_of_ones_own_connects() {
    let mut world = World::new();
    let nobody = by_stream(&mut world, "192.0.2.9:4000", "alice");
    let peer = vec![world.peer(PEER)];
    assert_eq!(world.code(&nobody, Method::CONNECT, peer), Some(437));
    let of_udp = world.allocated();
    let peer = vec![world.peer(PEER)];
    assert_eq!(world.code(&of_udp, Method::CONNECT, peer), Some(437));
    let mut world = World::new();
    let client = allocated(&mut world);
    let mut thief = by_stream(&mut world, CLIENT, "bob");
    thief.flow = client.flow;
    let peer = vec![world.peer(PEER)];
    assert_eq!(world.code(&thief, Method::CONNECT, peer), Some(441));
}

#[test]
fn a_peer_that_does_not_answer_is_told_in_time() {
    let mut world = World::new();
    let client = allocated(&mut world);
    let refused = connecting(&mut world, &client, PEER);
    world.server.handle_connected(world.now().instant, refused, false);
    world.act();
    assert_eq!(world.answer().code.map(|code| code.number()), Some(447));
    let silent = connecting(&mut world, &client, PEER);
    world.advance(Duration::from_secs(29));
    assert_eq!(world.actions(), []);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.answer().code.map(|code| code.number()), Some(447));
    assert_eq!(world.actions(), [Action::Disconnect { connection: silent }]);
    // Too late.
    world.server.handle_connected(world.now().instant, silent, true);
    world.act();
    assert_eq!(world.actions(), []);
}

#[test]
fn a_connection_that_nobody_comes_for_ends() {
    let mut world = World::new();
    let client = allocated(&mut world);
    let id = connected(&mut world, &client, PEER);
    world.advance(Duration::from_secs(30));
    assert_eq!(world.actions(), [Action::Disconnect { connection: id }]);
    let data = by_stream(&mut world, "192.0.2.7:4001", "alice");
    assert_eq!(bind(&mut world, &data, id), Some(400));
}

#[test]
fn peers_with_a_permission_may_connect_and_the_client_hears_of_it() {
    let mut world = World::new();
    let client = allocated(&mut world);
    assert_eq!(incoming(&mut world, PEER), None);
    world.permit(&client, PEER);
    let id = incoming(&mut world, "8.8.8.8:777").unwrap();
    world.act();
    let said = world.actions();
    let [Action::Respond { flow, message }] = said.as_slice() else { panic!("{said:?}") };
    let message = Message::parse(message).unwrap();
    assert_eq!((*flow, message.class()), (client.flow, Class::Indication));
    assert_eq!(message.method(), Method::CONNECTION_ATTEMPT);
    assert_eq!(number(&message), Some(id));
    assert_eq!(
        message.find_xor_address(AttributeType::XOR_PEER_ADDRESS),
        Some("8.8.8.8:777".parse().unwrap())
    );
    let data = by_stream(&mut world, "192.0.2.7:4001", "alice");
    assert_eq!(bind(&mut world, &data, id), None);
}

#[test]
fn neither_peers_nor_clients_can_pile_connections_up() {
    let mut world = World::new();
    let client = allocated(&mut world);
    world.permit(&client, PEER);
    let kept = (1..=100).filter(|port| incoming(&mut world, &format!("8.8.8.8:{port}")).is_some()).count();
    assert_eq!(kept, 32);
    world.act();
    world.actions();
    let peer = vec![world.peer("8.8.4.4:80")];
    assert_eq!(world.code(&client, Method::CONNECT, peer), Some(508));
}

#[test]
fn a_client_that_comes_for_its_connections_has_at_most_128() {
    let mut world = World::new();
    let client = allocated(&mut world);
    world.permit(&client, PEER);
    let mut kept = 0;
    while let Some(id) = incoming(&mut world, &format!("8.8.8.8:{}", 1000 + kept)) {
        world.act();
        world.actions();
        let data = by_stream(&mut world, &format!("192.0.2.7:{}", 10_000 + kept), "alice");
        assert_eq!(bind(&mut world, &data, id), None);
        kept += 1;
    }
    assert_eq!(kept, 128);
    let peer = vec![world.peer("8.8.4.4:80")];
    assert_eq!(world.code(&client, Method::CONNECT, peer), Some(508));
}

#[test]
fn whoever_connects_to_one_address_after_another_is_held_up_like_one_who_permits_them() {
    let mut world = World::new();
    world.quota = crate::policy::Quota::new(crate::policy::Limits {
        new_peers: std::num::NonZeroU64::new(5),
        ..crate::policy::Limits::default()
    });
    let client = allocated(&mut world);
    for port in 1..=5 {
        connecting(&mut world, &client, &format!("8.8.8.8:{port}"));
    }
    let peer = vec![world.peer("8.8.8.8:6")];
    assert_eq!(world.code(&client, Method::CONNECT, peer), Some(508));
}

#[test]
fn connections_end_with_their_allocation() {
    for ends in ["released", "expired", "disconnected"] {
        let mut world = World::new();
        let client = allocated(&mut world);
        let id = connected(&mut world, &client, PEER);
        let data = by_stream(&mut world, "192.0.2.7:4001", "alice");
        assert_eq!(bind(&mut world, &data, id), None);
        world.actions();
        connecting(&mut world, &client, "8.8.8.8:5001");
        match ends {
            "released" => release(&mut world, &client),
            "expired" => world.advance(Duration::from_secs(600)),
            _ => {
                world.server.handle_flow_closed(client.flow);
                world.act();
            }
        }
        let closed =
            world.actions().iter().filter(|action| matches!(action, Action::Disconnect { .. })).count();
        assert!(closed >= 2, "{ends}");
        assert_eq!(world.server.poll_timeout(), None, "{ends}: nothing is left to end");
    }
}

#[test]
fn a_client_that_waits_for_a_connection_is_told_when_its_allocation_ends_first() {
    for ends in ["released", "closed", "disconnected"] {
        let mut world = World::new();
        let client = allocated(&mut world);
        let id = connecting(&mut world, &client, PEER);
        match ends {
            "released" => release(&mut world, &client),
            "closed" => world.server.close(AllocationId(0), EndReason::Closed),
            _ => world.server.handle_flow_closed(client.flow),
        }
        world.act();
        let happened = world.actions();
        assert!(happened.contains(&Action::Disconnect { connection: id }), "{ends}");
        let told = happened.iter().filter_map(|action| {
            let Action::Respond { flow, message } = action else { return None };
            Some((*flow, Message::parse(message).unwrap()))
        });
        let told = told.filter(|(_, message)| message.method() == Method::CONNECT);
        let told: Vec<_> = told.map(|(flow, message)| (flow, message.class(), code(&message))).collect();
        match ends {
            "disconnected" => assert_eq!(told, [], "there is nobody to tell"),
            _ => assert_eq!(told, [(client.flow, Class::Error, Some(447))], "{ends}"),
        }
    }
}

fn release(world: &mut World, client: &Client) {
    let lifetime = vec![(AttributeType::LIFETIME, vec![0; 4])];
    let request = world.request(client, Method::REFRESH, &lifetime);
    world.deliver(client.flow, &request);
}

#[test]
fn a_stream_whose_connection_is_another_workers_goes_there() {
    let mut world = World::new();
    let data = by_stream(&mut world, "192.0.2.7:4001", "alice");
    let elsewhere = world.server.parts.handles.of_worker(1).new_connection(&mut world.server.parts.rng);
    let attributes = vec![(AttributeType::CONNECTION_ID, elsewhere.0.to_be_bytes().to_vec())];
    let request = world.request(&data, Method::CONNECTION_BIND, &attributes);
    world.deliver(data.flow, &request);
    assert_eq!(world.actions(), [Action::MoveStream { flow: data.flow, worker: 1, message: request }]);
}

#[test]
fn what_moves_to_another_process_are_no_connections() {
    let mut world = World::new();
    let client = allocated(&mut world);
    connected(&mut world, &client, PEER);
    let snapshot = world.server.snapshot(world.now().instant, |_| true);
    assert_eq!(snapshot.ids().count(), 0);
}
