//! What happened to other servers, and does not happen to this one.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use farcall_relay::stun::{AttributeType, Class, Method, TransactionId};

use super::assert_silent;
use crate::support::{Answer, Attributes, Certificate, Client, Relay, udp, udp_and, udp_socket};

/// Numbers of the sockets of a process, as in `/proc/net`.
fn sockets(pid: u32) -> BTreeSet<String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.filter_map(|link| fs::read_link(link.unwrap().path()).ok());
    let number = |link: &str| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    links.filter_map(|link| number(link.to_str()?)).collect()
}

#[test]
fn a_relay_listens_where_it_was_told_to_and_nowhere_else() {
    let mut relay = Command::new(env!("CARGO_BIN_EXE_farcall-relay"))
        .args(["--listen", "127.0.0.1:0", "--user", "alice:wonder", "--workers", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(relay.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let own = sockets(relay.id());
    let tables = ["tcp", "tcp6", "udp", "udp6", "unix"]
        .map(|table| (table, fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default()));
    relay.kill().unwrap();
    relay.wait().unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address: SocketAddr = ready["ready"]["udp"][0].as_str().unwrap().parse().unwrap();
    let mut listening = Vec::new();
    for (table, text) in &tables {
        for columns in text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()) {
            let (inode, listens) = match *table {
                // Flags: __SO_ACCEPTCON.
                "unix" => (columns[6], columns[3] == "00010000"),
                "udp" | "udp6" => (columns[9], true),
                _ => (columns[9], columns[3] == "0A"),
            };
            if listens && own.contains(inode) {
                listening.push((*table, columns[1].rsplit(':').next().unwrap().to_owned()));
            }
        }
    }
    listening.sort();
    let port = format!("{:04X}", address.port());
    let expected = ["tcp", "tcp", "udp", "udp"].map(|table| (table, port.clone()));
    assert_eq!(listening, expected, "one of each for each worker");
}

#[test]
fn neither_http_nor_grpc_is_spoken_on_the_ports_of_clients() {
    let certificate = Certificate::make("localhost");
    let files = certificate.flags();
    let relay =
        Relay::start_with(&["--tls-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", &files[0], &files[1]]);
    for bytes in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"POST /farcall.relay.v1.RelayAdminService/ListAllocations HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /metrics HTTP/1.0\r\n\r\n",
    ] {
        let mut plain = Client::tcp(relay.address);
        plain.transmit(bytes);
        plain.wait_for_end();
        let stream = TcpStream::connect(relay.tls()).unwrap();
        let (mut secured, _) = Client::tls(stream, certificate.client(&[&rustls::version::TLS13], None));
        secured.transmit(bytes);
        secured.wait_for_end();
    }
    Client::tcp(relay.address).allocate();
}

#[test]
fn a_nonce_is_good_where_it_was_given_and_nowhere_else() {
    let relay = Relay::start();
    let mut owner = Client::udp(relay.address);
    let request = owner.prepare(Method::ALLOCATE, &udp());
    let thieves = [Client::udp(relay.address), Client::udp(relay.address), Client::tcp(relay.address)];
    for mut thief in thieves {
        thief.transmit(&request);
        let answer = Answer { bytes: thief.receive() };
        assert_eq!(answer.code(), Some(438));
        let fresh = answer.message().find_text(AttributeType::NONCE).unwrap().to_owned();
        assert!(!request.windows(fresh.len()).any(|part| part == fresh.as_bytes()), "the same nonce");
    }
    owner.transmit(&request);
    assert_eq!(Answer { bytes: owner.receive() }.code(), None);
}

/// The core's own test has a hundred thousand of them.
#[test]
fn ports_and_tokens_that_were_seen_do_not_tell_the_next_one() {
    const DRAWS: u32 = 1500;
    let relay = Relay::start();
    let mut client = Client::udp(relay.address);
    let gone = vec![(AttributeType::LIFETIME, vec![0; 4])];
    let (mut buckets, mut steps, mut tokens) = ([0u32; 16], BTreeSet::new(), BTreeSet::new());
    let mut before = 0;
    for _ in 0..DRAWS {
        let answer = client.ask(Method::ALLOCATE, &udp_and(AttributeType::EVEN_PORT, &[0x80]));
        let port = answer.address(AttributeType::XOR_RELAYED_ADDRESS).port();
        tokens.insert(answer.message().find(AttributeType::RESERVATION_TOKEN).unwrap().to_vec());
        buckets[usize::from(port - 49152) / 1024] += 1;
        steps.insert(port.wrapping_sub(before));
        before = port;
        assert_eq!(client.ask(Method::REFRESH, &gone).code(), None);
    }
    let expected = f64::from(DRAWS) / 16.0;
    let chi_square: f64 = buckets.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    // Fifteen degrees of freedom: above 60 once in four million.
    assert!(chi_square < 60.0, "{chi_square}: {buckets:?}");
    assert!(steps.len() > 1200, "from one port to the next are only {} steps", steps.len());
    assert_eq!(tokens.len(), usize::try_from(DRAWS).unwrap());
}

#[test]
fn an_access_token_may_claim_any_length_and_be_refused() {
    let key = "north:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let relay = Relay::start_with(&["--oauth-key", key, "--unauthenticated-rate", "0"]);
    let mut client = Client::udp(relay.address).with_user("north", "unknown");
    for claimed in (0..200).chain((200..=u16::MAX).step_by(61)).chain([u16::MAX]) {
        let token = [&claimed.to_be_bytes()[..], &[7; 62]].concat();
        let answer = client.ask(Method::ALLOCATE, &udp_and(AttributeType::ACCESS_TOKEN, &token));
        assert_eq!(answer.code(), Some(401), "{claimed}");
    }
    for length in 0..70 {
        let answer = client.ask(Method::ALLOCATE, &udp_and(AttributeType::ACCESS_TOKEN, &vec![0; length]));
        assert_eq!(answer.code(), Some(401), "{length} bytes");
    }
    Client::udp(relay.address).allocate();
}

#[test]
fn nobody_chooses_its_realm_before_it_has_proven_who_it_is() {
    let relay = Relay::start();
    let origin = AttributeType(0x802f);
    let wish: Attributes =
        vec![(origin, b"https://other.example".to_vec()), (AttributeType::REALM, b"other.example".to_vec())];
    let mut client = Client::udp(relay.address);
    for _ in 0..3 {
        let answer = client.ask_plainly(Method::ALLOCATE, &[udp(), wish.clone()].concat());
        assert_eq!(answer.message().find_text(AttributeType::REALM).unwrap(), "farcall");
    }
    client.allocate();
}

#[test]
fn who_forges_anothers_address_does_not_lock_it_out() {
    let relay = Relay::start_with(&["--allow-peer", "127.0.0.0/8", "--unauthenticated-rate", "20"]);
    let mut known = Client::udp(relay.address);
    known.allocate();
    let mut knows_a_nonce = Client::udp(relay.address);
    let request = knows_a_nonce.prepare(Method::ALLOCATE, &udp());
    // All of them are of one prefix, whose budget is gone after the first few.
    let spoofer = udp_socket();
    let bare = known.plain(Class::Request, Method::ALLOCATE, &udp());
    for _ in 0..200 {
        spoofer.send_to(&bare, relay.address).unwrap();
    }
    relay.wait_until_idle();
    assert!(relay.metric("dropped_datagrams_total{reason=\"unauthenticated_rate\"}") > 100);
    assert_eq!(known.ask(Method::REFRESH, &vec![]).code(), None);
    knows_a_nonce.transmit(&request);
    assert_eq!(Answer { bytes: knows_a_nonce.receive() }.code(), None);
    // A newcomer comes by a stream, which proves where it is.
    Client::tcp(relay.address).allocate();
}

#[test]
fn where_only_named_peers_are_allowed_no_tunnel_leads_elsewhere() {
    let relay = Relay::start_with(&["--only-allowed-peers", "--allow-peer", "127.0.0.1/32"]);
    let (mut client, named) = (Client::udp(relay.address), udp_socket());
    client.allocate();
    let elsewhere =
        ["8.8.8.8:443", "127.0.0.2:443", "1.1.1.1:53"].map(|text| text.parse::<SocketAddr>().unwrap());
    for peer in elsewhere {
        assert_eq!(client.permit(peer), Some(403), "{peer}");
        assert_eq!(client.bind(0x4000, peer), Some(403), "{peer}");
        client.send(peer, b"out of the house", &vec![]);
    }
    assert_silent(&mut client, "Send");
    assert_eq!(relay.metric("forwarded_datagrams_total{direction=\"to_peer\"}"), 0);
    assert_eq!(relay.metric("requests_total{method=\"channel_bind\",result=\"403\"}"), 3);
    assert_eq!(client.bind(0x4000, named.local_addr().unwrap()), None);
    client.send_by_channel(0x4000, b"to the server");
    assert_eq!(named.recv(&mut [0; 64]).unwrap(), 13);
}

#[test]
fn channels_are_of_their_range_and_no_other() {
    let peer = udp_socket().local_addr().unwrap();
    for (flags, last) in [
        (&["--allow-peer=127.0.0.0/8"][..], 0x4fff),
        (&["--allow-peer=127.0.0.0/8", "--rfc5766-channels"], 0x7fff),
    ] {
        let relay = Relay::start_with(flags);
        let mut client = Client::udp(relay.address);
        client.allocate();
        for number in [0, 0x3fff, last + 1, 0x8000, 0xffff] {
            assert_eq!(client.bind(number, peer), Some(400), "{number:#x}");
        }
        assert_eq!(client.bind(last, peer), None);
    }
}

#[test]
fn channel_data_on_a_stream_is_padded_with_zeros() {
    let relay = Relay::start();
    let (mut client, peer) = (Client::tcp(relay.address), udp_socket());
    let relayed = client.allocate();
    assert_eq!(client.bind(0x4000, peer.local_addr().unwrap()), None);
    for round in 0..200usize {
        // What a buffer held before must not come out again.
        let data = vec![0xff; 1 + round * 37 % 1200];
        peer.send_to(&data, relayed).unwrap();
        let frame = client.receive();
        assert_eq!(frame.len(), 4 + data.len().next_multiple_of(4));
        assert_eq!(frame[4..4 + data.len()], data);
        assert!(frame[4 + data.len()..].iter().all(|byte| *byte == 0), "{frame:02x?}");
    }
}

#[test]
fn a_ticket_is_good_once_and_invented_ones_never() {
    let relay = Relay::start();
    let mut first = Client::udp(relay.address);
    let answer = first.ask(Method::ALLOCATE, &udp_and(AttributeType::MOBILITY_TICKET, &[]));
    let ticket = answer.message().find(AttributeType::MOBILITY_TICKET).unwrap().to_vec();
    let moves = |ticket: &[u8]| vec![(AttributeType::MOBILITY_TICKET, ticket.to_vec())];
    let mut second = Client::udp(relay.address);
    let answer = second.ask(Method::REFRESH, &moves(&ticket));
    assert_eq!(answer.code(), None);
    // Until the new address is used, the move may be asked for again; then the ticket is spent.
    let fresh = answer.message().find(AttributeType::MOBILITY_TICKET).unwrap().to_vec();
    assert_eq!(second.ask(Method::REFRESH, &vec![]).code(), None);
    let mut third = Client::udp(relay.address);
    assert_eq!(third.ask(Method::REFRESH, &moves(&ticket)).code(), Some(437), "a ticket of the past");
    for flipped in 0..fresh.len() {
        let mut invented = fresh.clone();
        invented[flipped] ^= 1;
        assert_eq!(third.ask(Method::REFRESH, &moves(&invented)).code(), Some(400), "byte {flipped}");
    }
    for length in [0, 1, 7, fresh.len() - 1, fresh.len() + 1, 400] {
        assert_eq!(third.ask(Method::REFRESH, &moves(&vec![7; length])).code(), Some(400), "{length} bytes");
    }
    assert_eq!(relay.metric("allocations"), 1);
    let id = TransactionId([3; 12]);
    second.transmit(&second.signed(Method::REFRESH, id, &vec![(AttributeType::LIFETIME, vec![0; 4])]));
    assert_eq!(Answer { bytes: second.receive() }.code(), None);
    assert_eq!(relay.metric("allocations"), 0);
}
