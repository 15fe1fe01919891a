//! What a client relies on, over real sockets.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use farcall_proto::turn_credentials::AuthSecret;
use farcall_relay::clock;
use farcall_relay::stun::{AttributeType, Class, Message, Method};

use crate::support::{Client, DEADLINE, Relay, udp, udp_and, udp_socket};

fn clients(relay: &Relay) -> [(&'static str, Client); 2] {
    [("udp", Client::udp(relay.address)), ("tcp", Client::tcp(relay.address))]
}

fn forwarded(relay: &Relay, direction: &str) -> (u64, u64) {
    let of = |what: &str| relay.metric(&format!("forwarded_{what}_total{{direction=\"{direction}\"}}"));
    (of("datagrams"), of("bytes"))
}

#[test]
fn a_binding_says_where_the_client_is() {
    let relay = Relay::start();
    for (name, mut client) in clients(&relay) {
        let answer = client.ask_plainly(Method::BINDING, &vec![]);
        assert_eq!(answer.address(AttributeType::XOR_MAPPED_ADDRESS), client.local_address(), "{name}");
        assert_eq!(answer.bytes.len(), 32, "{name}");
    }
}

#[test]
fn a_channel_carries_data_of_every_length_both_ways_and_is_counted() {
    for transport in ["udp", "tcp"] {
        let relay = Relay::start();
        let mut client = clients(&relay).into_iter().find(|(name, _)| *name == transport).unwrap().1;
        let peer = udp_socket();
        let relayed = client.allocate();
        assert_eq!(client.bind(0x4000, peer.local_addr().unwrap()), None);
        let mut buffer = [0; 65536];
        let lengths = [8000usize, 1200, 170, 5, 4, 3, 2, 1, 0, 1, 8000];
        for length in lengths {
            let data = vec![length.to_be_bytes()[7]; length];
            client.send_by_channel(0x4000, &data);
            let (received, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..received], from), (&data[..], relayed), "{transport} {length} out");
            peer.send_to(&data, relayed).unwrap();
            let frame = client.receive();
            let header = [0x40, 0x00, length.to_be_bytes()[6], length.to_be_bytes()[7]];
            assert_eq!(
                (&frame[..4], &frame[4..4 + length]),
                (&header[..], &data[..]),
                "{transport} {length} in"
            );
            assert!(frame[4 + length..].iter().all(|byte| *byte == 0), "padding is zero");
            assert_eq!(
                frame.len(),
                if transport == "tcp" { 4 + length.next_multiple_of(4) } else { 4 + length }
            );
        }
        let bytes: usize = lengths.iter().sum();
        let expected = (lengths.len() as u64, bytes as u64);
        relay.wait_for_metric("forwarded_datagrams_total{direction=\"to_client\"}", expected.0);
        assert_eq!((forwarded(&relay, "to_peer"), forwarded(&relay, "to_client")), (expected, expected));
    }
}

#[test]
fn indications_carry_data_both_ways_with_and_without_dont_fragment() {
    let relay = Relay::start();
    for (name, mut client) in clients(&relay) {
        let peer = udp_socket();
        let address = peer.local_addr().unwrap();
        let relayed = client.allocate();
        assert_eq!(client.permit(address), None);
        let mut buffer = [0; 2048];
        for more in [vec![], vec![(AttributeType::DONT_FRAGMENT, vec![])]] {
            client.send(address, b"out", &more);
            let (length, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&b"out"[..], relayed), "{name}");
            peer.send_to(b"in", relayed).unwrap();
            let bytes = client.receive();
            let message = Message::parse(&bytes).unwrap();
            assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
            assert_eq!(message.find(AttributeType::DATA), Some(&b"in"[..]));
            assert_eq!(message.find_xor_address(AttributeType::XOR_PEER_ADDRESS), Some(address));
        }
    }
}

#[test]
fn ipv6_clients_reach_ipv6_peers() {
    let interfaces = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    if !interfaces.lines().any(|line| line.ends_with(" lo")) {
        eprintln!("NOT RUN: this machine has no IPv6 loopback");
        return;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_farcall-relay"));
    command.args(["--listen", "[::1]:0", "--metrics-listen", "[::1]:0"]);
    command.args(["--user", "alice:wonder", "--allow-peer", "::1"]);
    let relay = Relay::spawn(command);
    let peer = UdpSocket::bind("[::1]:0").unwrap();
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut client = Client::udp(relay.address);
    assert_eq!(client.ask(Method::ALLOCATE, &udp()).code(), Some(440), "there is no IPv4 relay address");
    let answer =
        client.ask(Method::ALLOCATE, &udp_and(AttributeType::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0]));
    let relayed = answer.address(AttributeType::XOR_RELAYED_ADDRESS);
    assert_eq!(client.bind(0x4000, peer.local_addr().unwrap()), None);
    client.send_by_channel(0x4000, b"out");
    let mut buffer = [0; 64];
    assert_eq!(peer.recv_from(&mut buffer).unwrap(), (3, relayed));
    peer.send_to(b"in", relayed).unwrap();
    assert_eq!(client.receive(), [0x40, 0, 0, 2, b'i', b'n']);
}

#[test]
fn two_clients_of_one_relay_talk_through_both_their_relayed_addresses() {
    let relay = Relay::start_with(&[]);
    let (mut alice, mut bob) =
        (Client::udp(relay.address), Client::tcp(relay.address).with_user("bob", "builder"));
    let (at_alice, at_bob) = (alice.allocate(), bob.allocate());
    assert_eq!(alice.bind(0x4000, at_bob), None, "our own relayed addresses need no --allow-peer");
    assert_eq!(bob.bind(0x4FFF, at_alice), None);
    alice.send_by_channel(0x4000, b"ping");
    assert_eq!(bob.receive(), [&[0x4F, 0xFF, 0, 4], &b"ping"[..]].concat());
    bob.send_by_channel(0x4FFF, b"pong!");
    assert_eq!(alice.receive(), [&[0x40, 0, 0, 5], &b"pong!"[..]].concat());
    assert_eq!(relay.metric("internal_datagrams_total"), 2, "past the kernel");
}

/// Eight clients on two workers: among the pairs are some of one worker and some of two.
#[test]
fn data_between_relays_of_one_server_is_the_same_whichever_workers_and_never_meets_a_socket() {
    let relay = Relay::start_with(&[]);
    let mut clients: Vec<_> = (0..8).map(|_| Client::udp(relay.address)).collect();
    let relayed: Vec<_> = clients.iter_mut().map(Client::allocate).collect();
    let mut sent = 0;
    for to in 1..clients.len() {
        let channel = 0x4000 + u16::try_from(to).unwrap();
        assert_eq!(clients[0].bind(channel, relayed[to]), None);
        // The other end has given no permission yet: what comes now comes to nothing.
        clients[0].send_by_channel(channel, b"too early");
        relay.wait_for_metric("dropped_datagrams_total{reason=\"no_permission\"}", sent / 4 + 1);
        assert_eq!(clients[to].permit(relayed[0]), None);
        let text = format!("to {to}");
        clients[0].send_by_channel(channel, text.as_bytes());
        let bytes = clients[to].receive();
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        assert_eq!(message.find(AttributeType::DATA), Some(text.as_bytes()));
        assert_eq!(message.find_xor_address(AttributeType::XOR_PEER_ADDRESS), Some(relayed[0]));
        assert_eq!(clients[to].bind(0x4FFF, relayed[0]), None);
        clients[to].send_by_channel(0x4FFF, b"back");
        assert_eq!(clients[0].receive(), [&channel.to_be_bytes()[..], &[0, 4], b"back"].concat());
        clients[0].send(relayed[to], b"sent", &vec![]);
        assert_eq!(clients[to].receive(), [&[0x4F, 0xFF, 0, 4], &b"sent"[..]].concat());
        sent += 4;
    }
    assert_eq!(relay.metric("internal_datagrams_total"), sent);
    // Whoever closes is out of reach at once.
    let zero = vec![(AttributeType::LIFETIME, vec![0; 4])];
    assert_eq!(clients[1].ask(Method::REFRESH, &zero).code(), None);
    clients[0].send_by_channel(0x4001, b"too late");
    clients[0].send_by_channel(0x4002, b"in time");
    assert_eq!(clients[2].receive()[4..], b"in time"[..]);
}

#[test]
fn without_allow_peer_loopback_is_refused_and_the_listener_always_is() {
    let peer = udp_socket().local_addr().unwrap();
    let relay = Relay::start_with(&["--relay-ports", "1024-65535"]);
    let mut client = Client::udp(relay.address);
    client.allocate();
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], peer.port()));
    assert_eq!(client.permit(elsewhere), Some(403));
    assert_eq!(client.bind(0x4000, elsewhere), Some(403));
    assert_eq!(
        client.bind(0x4000, peer),
        Some(403),
        "beside our relays and in their range, but none of them"
    );
    assert_eq!(client.bind(0x4000, relay.address), Some(403));

    let relay = Relay::start();
    let mut client = Client::udp(relay.address);
    client.allocate();
    assert_eq!(client.bind(0x4000, peer), None);
    assert_eq!(client.bind(0x4001, relay.address), Some(403));
    assert_eq!(client.bind(0x4001, relay.metrics_address()), Some(403));
}

#[test]
fn ephemeral_credentials_are_good_until_they_expire() {
    let relay = Relay::start();
    let secret = AuthSecret::new("north").unwrap();
    let now = clock::unix_time();
    let later = secret.mint(now.after(std::time::Duration::from_secs(600)), "session");
    let mut client = Client::udp(relay.address).with_user(&later.username, &later.password);
    assert_eq!(client.ask(Method::ALLOCATE, &udp()).code(), None);
    let earlier = secret.mint(farcall_proto::turn_credentials::UnixTime(now.0 - 1), "session");
    let mut client = Client::udp(relay.address).with_user(&earlier.username, &earlier.password);
    assert_eq!(client.ask(Method::ALLOCATE, &udp()).code(), Some(401));
    let mut client = Client::udp(relay.address).with_user("alice", "guess");
    assert_eq!(client.ask(Method::ALLOCATE, &udp()).code(), Some(401));
}

#[test]
fn exactly_the_quota_is_allocated_whatever_workers_the_requests_meet() {
    let relay = Relay::start_with(&["--user-quota", "5"]);
    let mut clients: Vec<_> = (0..30).map(|_| Client::udp(relay.address)).collect();
    let codes: Vec<_> =
        clients.iter_mut().map(|client| client.ask(Method::ALLOCATE, &udp()).code()).collect();
    assert_eq!(codes.iter().filter(|code| code.is_none()).count(), 5, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(486)).count(), 25);
    assert_eq!(relay.metric("allocations"), 5);
    let bob = Client::udp(relay.address).with_user("bob", "builder").allocate();
    assert_eq!(bob.ip().to_string(), "127.0.0.1");
    let holder = codes.iter().position(Option::is_none).unwrap();
    let zero = vec![(AttributeType::LIFETIME, vec![0; 4])];
    assert_eq!(clients[holder].ask(Method::REFRESH, &zero).code(), None);
    assert_eq!(Client::udp(relay.address).ask(Method::ALLOCATE, &udp()).code(), None, "one was given back");
}

#[test]
fn a_full_port_range_is_a_508_and_every_port_of_it_is_used() {
    let base = udp_socket().local_addr().unwrap().port().min(65_000) / 2 * 2;
    let relay = Relay::start_with(&["--relay-ports", &format!("{base}-{}", base + 7)]);
    let mut codes = Vec::new();
    for _ in 0..12 {
        let mut client = Client::udp(relay.address);
        codes.push(client.ask(Method::ALLOCATE, &udp_and(AttributeType::EVEN_PORT, &[0])).code());
    }
    let allocated = codes.iter().filter(|code| code.is_none()).count();
    // Somebody else's socket may be among the even ports.
    assert!((1..=4).contains(&allocated), "{codes:?}");
    assert!(codes[allocated..].iter().all(|code| *code == Some(508)), "{codes:?}");
}

#[test]
fn the_advertised_address_is_the_external_one() {
    let relay = Relay::start_with(&["--external-ip", "203.0.113.9"]);
    assert_eq!(Client::udp(relay.address).allocate().ip().to_string(), "203.0.113.9");
}

#[test]
fn a_closed_stream_ends_its_allocation() {
    let relay = Relay::start();
    let mut client = Client::tcp(relay.address);
    client.allocate();
    assert_eq!((relay.metric("allocations"), relay.metric("stream_clients")), (1, 1));
    drop(client);
    relay.wait_for_metric("allocations", 0);
    relay.wait_for_metric("stream_clients", 0);
}

#[test]
fn frames_split_and_joined_in_every_way_are_understood() {
    let relay = Relay::start();
    let mut client = Client::tcp(relay.address);
    let frames: Vec<u8> =
        (0..3).flat_map(|_| client.plain(Class::Request, Method::BINDING, &vec![])).collect();
    for byte in &frames {
        client.transmit(&[*byte]);
    }
    for _ in 0..3 {
        assert_eq!(client.receive().len(), 32);
    }
    client.transmit(&frames);
    for _ in 0..3 {
        assert_eq!(client.receive().len(), 32);
    }
}

#[test]
fn datagrams_past_a_users_limit_go_nowhere_and_are_counted() {
    let relay = Relay::start_with(&["--allow-peer", "127.0.0.0/8", "--user-packets", "10"]);
    let (mut client, peer) = (Client::udp(relay.address), udp_socket());
    client.allocate();
    assert_eq!(client.bind(0x4000, peer.local_addr().unwrap()), None);
    for _ in 0..100 {
        client.send_by_channel(0x4000, b"flood");
    }
    // The server answers in order: by now it has decided about all of them.
    client.ask(Method::REFRESH, &vec![]);
    let passed = relay.metric("forwarded_datagrams_total{direction=\"to_peer\"}");
    let dropped = relay.metric("dropped_datagrams_total{reason=\"user_limit\"}");
    assert_eq!(passed + dropped, 100);
    assert!((10..90).contains(&passed), "{passed}");
}

#[test]
fn both_directions_draw_on_one_users_bandwidth() {
    let relay = Relay::start_with(&["--allow-peer", "127.0.0.0/8", "--user-bandwidth", "1000"]);
    let (mut client, peer) = (Client::udp(relay.address), udp_socket());
    let relayed = client.allocate();
    assert_eq!(client.bind(0x4000, peer.local_addr().unwrap()), None);
    client.send_by_channel(0x4000, &[1; 900]);
    // Uses up a minute: a datagram may cost more than there is left.
    peer.send_to(&[2; 60_000], relayed).unwrap();
    assert_eq!(client.receive().len(), 60_004);
    peer.send_to(&[3; 10], relayed).unwrap();
    client.send_by_channel(0x4000, &[4; 10]);
    relay.wait_for_metric("dropped_datagrams_total{reason=\"user_limit\"}", 2);
}
