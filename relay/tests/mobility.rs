//! RFC 8016 over real sockets. There are two workers, and the kernel chooses which of them an address meets: what is tried
//! from many addresses is tried with both.

use std::net::UdpSocket;

use farcall_relay::stun::{AttributeType, Method};

use crate::support::{Attributes, Client, Relay, coturn_tool, echo_peer, udp_and, udp_socket};

const TICKET: AttributeType = AttributeType::MOBILITY_TICKET;

fn ticket(ticket: &[u8]) -> Attributes {
    vec![(TICKET, ticket.to_vec())]
}

/// A client with a ticket, a channel to the peer and its relayed address.
fn mobile(mut client: Client, peer: &UdpSocket) -> (Client, Vec<u8>, std::net::SocketAddr) {
    let answer = client.ask(Method::ALLOCATE, &udp_and(TICKET, &[]));
    assert_eq!(answer.code(), None);
    let ticket = answer.message().find(TICKET).unwrap().to_vec();
    let relayed = answer.address(AttributeType::XOR_RELAYED_ADDRESS);
    assert_eq!(client.bind(0x4000, peer.local_addr().unwrap()), None);
    (client, ticket, relayed)
}

fn assert_carries_data(client: &mut Client, peer: &UdpSocket, relayed: std::net::SocketAddr, what: &str) {
    let mut buffer = [0; 64];
    client.send_by_channel(0x4000, b"data out");
    assert_eq!(peer.recv_from(&mut buffer).unwrap(), (8, relayed), "{what}");
    peer.send_to(b"data back", relayed).unwrap();
    assert_eq!(&client.receive()[4..13], b"data back", "{what}");
}

#[test]
fn a_client_keeps_its_allocation_from_address_to_address_and_worker_to_worker() {
    let (relay, peer) = (Relay::start(), udp_socket());
    let (mut client, mut latest, relayed) = mobile(Client::udp(relay.address), &peer);
    for round in 0..16 {
        let mut next = match round % 2 {
            0 => Client::udp(relay.address),
            _ => Client::tcp(relay.address),
        };
        let answer = next.ask(Method::REFRESH, &ticket(&latest));
        assert_eq!(answer.code(), None, "round {round}");
        latest = answer.message().find(TICKET).unwrap().to_vec();
        assert_carries_data(&mut client, &peer, relayed, "the old address until the new one is used");
        assert_carries_data(&mut next, &peer, relayed, "the new address");
        client = next;
    }
    assert_eq!(relay.metric("allocations"), 1);
    let zero = vec![(AttributeType::LIFETIME, vec![0; 4])];
    assert_eq!(client.ask(Method::REFRESH, &zero).code(), None);
    assert_eq!(relay.metric("allocations"), 0);
    assert_eq!(client.ask(Method::REFRESH, &ticket(&latest)).code(), Some(437));
}

#[test]
fn a_lost_stream_is_no_lost_allocation() {
    let (relay, peer) = (Relay::start(), udp_socket());
    for _ in 0..6 {
        let (client, latest, relayed) = mobile(Client::tcp(relay.address), &peer);
        drop(client);
        let mut next = Client::tcp(relay.address);
        assert_eq!(next.ask(Method::REFRESH, &ticket(&latest)).code(), None);
        assert_carries_data(&mut next, &peer, relayed, "the new stream");
    }
}

#[test]
fn another_users_ticket_is_a_441_whichever_worker_is_asked() {
    let (relay, peer) = (Relay::start(), udp_socket());
    let (mut owner, stolen, relayed) = mobile(Client::udp(relay.address), &peer);
    for _ in 0..8 {
        let mut thief = Client::udp(relay.address).with_user("bob", "builder");
        assert_eq!(thief.ask(Method::REFRESH, &ticket(&stolen)).code(), Some(441));
        let mut thief = Client::tcp(relay.address).with_user("bob", "builder");
        assert_eq!(thief.ask(Method::REFRESH, &ticket(&stolen)).code(), Some(441));
    }
    assert_carries_data(&mut owner, &peer, relayed, "the owner");
}

#[test]
fn the_quota_counts_an_allocation_once_however_often_it_moves() {
    let relay = Relay::start_with(&["--allow-peer", "127.0.0.0/8", "--user-quota", "1"]);
    let peer = udp_socket();
    let (mut client, mut latest, relayed) = mobile(Client::udp(relay.address), &peer);
    for _ in 0..6 {
        let mut next = Client::udp(relay.address);
        let answer = next.ask(Method::REFRESH, &ticket(&latest));
        latest = answer.message().find(TICKET).unwrap().to_vec();
        assert_carries_data(&mut next, &peer, relayed, "the new address");
        assert_eq!(Client::udp(relay.address).ask(Method::ALLOCATE, &udp_and(TICKET, &[])).code(), Some(486));
        client = next;
    }
    assert_eq!(client.ask(Method::REFRESH, &vec![(AttributeType::LIFETIME, vec![0; 4])]).code(), None);
    Client::udp(relay.address).allocate();
}

#[test]
fn a_held_port_is_claimed_from_any_address() {
    let relay = Relay::start();
    for _ in 0..12 {
        let mut first = Client::udp(relay.address);
        let answer = first.ask(Method::ALLOCATE, &udp_and(AttributeType::EVEN_PORT, &[0x80]));
        let lower = answer.address(AttributeType::XOR_RELAYED_ADDRESS);
        let token = answer.message().find(AttributeType::RESERVATION_TOKEN).unwrap().to_vec();
        let mut second = Client::udp(relay.address);
        let answer = second.ask(Method::ALLOCATE, &udp_and(AttributeType::RESERVATION_TOKEN, &token));
        assert_eq!(answer.address(AttributeType::XOR_RELAYED_ADDRESS).port(), lower.port() + 1);
        assert_eq!(second.ask(Method::REFRESH, &vec![]).code(), None);
        let mut third = Client::tcp(relay.address);
        let answer = third.ask(Method::ALLOCATE, &udp_and(AttributeType::RESERVATION_TOKEN, &token));
        assert_eq!(answer.code(), Some(508));
    }
    assert_eq!(relay.metric("allocations"), 24);
}

#[test]
fn uclient_moves() {
    for transport in [&[][..], &["-t"]] {
        let relay = Relay::start_with(&["--allow-peer", "127.0.0.0/8", "--rfc5766-channels"]);
        let output = coturn_tool("turnutils_uclient")
            .args(["-M", "-u", "alice", "-w", "wonder", "-p", &relay.port(), "-e", "127.0.0.1"])
            .args([
                "-r",
                &echo_peer().port().to_string(),
                "-n",
                "50",
                "-m",
                "4",
                "-l",
                "170",
                "-z",
                "1",
                "-c",
                "-X",
            ])
            .args(transport)
            .arg("127.0.0.1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains("Total lost packets 0 (0.000000%)"), "{said}");
    }
}
