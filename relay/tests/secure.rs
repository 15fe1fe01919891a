//! TLS, DTLS and proxies over real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;

use farcall_relay::stun::{AttributeType, Method};
use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, ProtocolVersion};

use crate::support::{Certificate, Client, DEADLINE, Relay, udp_socket};

/// With one worker, so that its bounds are the server's.
fn start(certificate: &Certificate, flags: &[&str]) -> Relay {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farcall-relay"));
    command
        .args(["--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0", "--dtls-listen", "127.0.0.1:0"])
        .args(["--metrics-listen", "127.0.0.1:0", "--workers", "1", "--user", "alice:wonder"])
        .args(["--allow-peer", "127.0.0.0/8"])
        .args(certificate.flags())
        .args(flags);
    Relay::spawn(command)
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Allocates, binds a channel and sends there and back.
fn relay_something(mut client: Client) {
    let peer = udp_socket();
    let relayed = client.allocate();
    let peer_address = peer.local_addr().unwrap();
    assert_eq!(client.bind(0x4000, peer_address), None);
    for data in [&b"odd"[..], b"even", &[7; 1200], &[8; 9000]] {
        client.send_by_channel(0x4000, data);
        let mut buffer = [0; 16_384];
        let (length, from) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (data, relayed));
        peer.send_to(data, relayed).unwrap();
        assert_eq!(&client.receive()[4..4 + data.len()], data);
    }
}

#[test]
fn tls_of_both_versions_relays_and_says_stun_turn() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &[]);
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for protocol in [None, Some("stun.turn"), Some("stun.nat-discovery")] {
            let config = certificate.client(&[version], protocol);
            let (client, connection) = Client::tls(connect(relay.tls()), config);
            relay_something(client);
            let connection = connection.lock().unwrap();
            assert_eq!(connection.conn.protocol_version(), Some(expected));
            assert_eq!(connection.conn.alpn_protocol(), protocol.map(str::as_bytes));
        }
    }
    assert_eq!(relay.metric("handshakes_total{transport=\"tls\",result=\"done\"}"), 6);
}

#[test]
fn whoever_wants_another_protocol_or_no_tls_is_not_served_by_the_tls_listener() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &[]);
    let config = certificate.client(&[&TLS13], Some("h2"));
    let mut connection = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let error = connection.complete_io(&mut connect(relay.tls())).unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");

    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x00\x01\x00\x00\x21\x12\xa4\x42aaaaaaaaaaaa",
        &[22, 3, 1, 255, 255],
    ] {
        let mut stream = connect(relay.tls());
        stream.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            // An alert at most.
            Ok(_) => assert!(rest.len() <= 7 && rest.first().is_none_or(|kind| *kind == 21), "{rest:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    relay_something(Client::tls(connect(relay.tls()), certificate.client(&[&TLS13], None)).0);
}

#[test]
fn the_plain_port_takes_tls_as_well() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &[]);
    relay_something(Client::tls(connect(relay.address), certificate.client(&[&TLS13], None)).0);
    relay_something(Client::tcp(relay.address));
}

#[test]
fn a_session_is_resumed_without_another_certificate() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &[]);
    for version in [&TLS12, &TLS13] {
        let config = certificate.client(&[version], None);
        for expected in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
            let (mut client, connection) = Client::tls(connect(relay.tls()), config.clone());
            client.allocate();
            assert_eq!(connection.lock().unwrap().conn.handshake_kind(), Some(expected));
        }
    }
}

#[test]
fn a_new_certificate_is_shown_to_newcomers_and_old_connections_go_on() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &[]);
    let (mut before, _) = Client::tls(connect(relay.tls()), certificate.client(&[&TLS13], None));
    before.allocate();
    let old = certificate.der();

    certificate.replace_by_nonsense();
    let renewed = certificate.replace();
    assert_ne!(old, renewed.der());
    // At once, though it would be noticed as well.
    relay.signal(Signal::HUP);
    let begun = farcall_relay::clock::now();
    loop {
        let config = renewed.client(&[&TLS13], None);
        let mut connection = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        if connection.complete_io(&mut connect(relay.tls())).is_ok() {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "the new certificate is not shown");
    }
    assert_eq!(before.ask(Method::REFRESH, &vec![]).code(), None);
}

#[test]
fn the_certificate_is_chosen_by_name() {
    let (one, two) = (Certificate::make("one.example"), Certificate::make("two.example"));
    let both = [one.flags(), two.flags()].concat();
    let flags: Vec<_> = both.iter().map(String::as_str).chain(["--tls-listen=127.0.0.1:0"]).collect();
    let relay = Relay::start_with(&flags);
    for (name, shown) in [("one.example", &one), ("two.example", &two), ("other.example", &one)] {
        let config = one.client_without_checks();
        let mut connection = ClientConnection::new(config, name.try_into().unwrap()).unwrap();
        connection.complete_io(&mut connect(relay.tls())).unwrap();
        assert_eq!(connection.peer_certificates().unwrap()[0].to_vec(), shown.der(), "{name}");
    }
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header that says 192.0.2.7:12345, with something behind the addresses.
fn proxy_header() -> Vec<u8> {
    let rest = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x0d, 0x96, 4, 0, 1, 0];
    [SIGNATURE, &[0x21, 0x11, 0, 16], &rest].concat()
}

fn reflexive(client: &mut Client) -> SocketAddr {
    client.ask_plainly(Method::BINDING, &vec![]).address(AttributeType::XOR_MAPPED_ADDRESS)
}

#[test]
fn a_trusted_proxy_says_who_is_behind_it_before_tcp_and_before_tls() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &["--proxy-protocol-from=127.0.0.0/8"]);
    let behind: SocketAddr = "192.0.2.7:12345".parse().unwrap();
    let proxied = |server, pieces: &[&[u8]]| {
        let mut stream = connect(server);
        pieces.iter().for_each(|piece| stream.write_all(piece).unwrap());
        stream
    };
    let header = proxy_header();
    let (first, second) = header.split_at(9);
    let mut plain = Client::over(proxied(relay.address, &[first, second]));
    assert_eq!(reflexive(&mut plain), behind);
    plain.allocate();
    for server in [relay.tls(), relay.address] {
        let stream = proxied(server, &[&header]);
        let (mut client, _) = Client::tls(stream, certificate.client(&[&TLS13], None));
        assert_eq!(reflexive(&mut client), behind);
        relay_something(client);
    }
    // A proxy's own question, as to its health.
    let mut local = Client::over(proxied(relay.address, &[SIGNATURE, &[0x20, 0, 0, 0]]));
    assert_eq!(reflexive(&mut local), local.local_address());

    let mut silent = Client::tcp(relay.address);
    let binding = silent.plain(farcall_relay::stun::Class::Request, Method::BINDING, &vec![]);
    silent.transmit(&binding);
    silent.wait_for_end();
}

#[test]
fn whoever_is_no_proxy_is_not_believed() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &["--proxy-protocol-from=192.0.2.0/24"]);
    let mut plain = Client::tcp(relay.address);
    assert_eq!(reflexive(&mut plain), plain.local_address());
    let mut liar = Client::tcp(relay.address);
    liar.transmit(&proxy_header());
    liar.transmit(&[0; 20]);
    liar.wait_for_end();
}

/// A client that does not read while its peer sends.
fn stall(mut client: Client, relay: &Relay) {
    let peer = udp_socket();
    let relayed = client.allocate();
    assert_eq!(client.bind(0x4000, peer.local_addr().unwrap()), None);
    let before = relay.resident_kilobytes();
    let begun = farcall_relay::clock::now();
    let datagram = |number: u32| [&number.to_be_bytes()[..], &[0; 996]].concat();
    let mut sent: u32 = 0;
    // Far more than any buffer between them holds.
    while relay.metric("dropped_datagrams_total{reason=\"backlog\"}") < 2000 {
        assert!(begun.elapsed() < DEADLINE, "nothing is dropped");
        for _ in 0..500 {
            sent += 1;
            peer.send_to(&datagram(sent), relayed).unwrap();
        }
    }
    assert!(relay.resident_kilobytes() < before + 4096, "a slow reader costs memory");

    // What comes out is whole frames in order, a hole where they were dropped, and then what is new.
    let last = u32::MAX;
    let mut received = Vec::new();
    loop {
        peer.send_to(&datagram(last), relayed).unwrap();
        let frame = client.receive();
        assert_eq!(frame.len(), 1004);
        received.push(u32::from_be_bytes(frame[4..8].try_into().unwrap()));
        if received.last() == Some(&last) {
            break;
        }
    }
    assert!(received.is_sorted());
    assert!(received.windows(2).any(|pair| pair[1] - pair[0] > 1 && pair[1] != last) || received.len() > 10);
}

#[test]
fn a_slow_reader_gets_whole_frames_and_what_is_new() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &[]);
    stall(Client::tcp(relay.address), &relay);
}

#[test]
fn a_slow_reader_by_tls_gets_whole_frames_and_what_is_new() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &[]);
    stall(Client::tls(connect(relay.tls()), certificate.client(&[&TLS13], None)).0, &relay);
}

/// A ClientHello; `whole` is how long it claims to be.
fn hello(random: u32, sequence: u8, cookie: &[u8], whole: u8) -> Vec<u8> {
    let length = u8::try_from(cookie.len()).unwrap();
    let body =
        [&[254, 253][..], &random.to_be_bytes(), &[7; 28], &[0, length], cookie, &[0, 2, 0xc0, 0x2b, 1, 0]]
            .concat();
    let length = u8::try_from(body.len()).unwrap();
    let header = [1, 0, 0, whole.max(length), 0, sequence, 0, 0, 0, 0, 0, length];
    let record = [&[22, 254, 255, 0, 0, 0, 0, 0, 0, 0, sequence, 0, length + 12], &header[..]].concat();
    [record, body].concat()
}

#[test]
fn a_flood_of_client_hellos_leaves_nothing_behind() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &[]);
    let sockets: Vec<_> = (1..=8_u8)
        .map(|host| UdpSocket::bind(SocketAddr::from(([127, 0, 1, host], 0))).unwrap())
        .inspect(|socket| socket.set_nonblocking(true).unwrap())
        .collect();
    let flood = |count: u32| {
        for number in 0..count {
            let socket = &sockets[usize::try_from(number).unwrap() % sockets.len()];
            // Now and then with a cookie that nobody gave.
            let cookie: &[u8] = if number % 3 == 0 { &[9; 32] } else { &[] };
            let _ = socket.send_to(&hello(number, u8::from(!cookie.is_empty()), cookie, 0), relay.dtls());
            let mut answer = [0; 256];
            while let Ok(length) = socket.recv(&mut answer) {
                assert!(length <= 60, "an answer that is longer than the question");
            }
        }
    };
    flood(2_000);
    let before = (relay.resident_kilobytes(), relay.descriptors());
    flood(50_000);
    assert_eq!(relay.descriptors(), before.1);
    assert!(relay.resident_kilobytes() <= before.0 + 256, "{} KiB", relay.resident_kilobytes() - before.0);
    assert_eq!(relay.metric("dtls_clients"), 0);
}

#[test]
fn one_source_holds_so_many_handshakes_open_and_no_more() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &[]);
    let mut answer = [0; 2048];
    let mut sockets = Vec::new();
    // Each returns its cookie in a hello of which the rest never comes.
    for number in 0..140 {
        let socket = udp_socket();
        socket.connect(relay.dtls()).unwrap();
        socket.send(&hello(number, 0, &[], 0)).unwrap();
        let length = socket.recv(&mut answer).unwrap();
        socket.send(&hello(number, 1, &answer[length - 32..length], 255)).unwrap();
        sockets.push(socket);
    }
    relay.wait_for_metric("dropped_datagrams_total{reason=\"handshake_limit\"}", 12);
    assert_eq!(relay.metric("dtls_clients"), 128);

    // Somebody else is served meanwhile.
    let socket = UdpSocket::bind("127.0.1.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(relay.dtls()).unwrap();
    socket.send(&hello(1, 0, &[], 0)).unwrap();
    let length = socket.recv(&mut answer).unwrap();
    socket.send(&hello(1, 1, &answer[length - 32..length], 255)).unwrap();
    relay.wait_for_metric("dtls_clients", 129);
}

#[test]
fn old_dtls_is_told_so_and_noise_nothing() {
    let certificate = Certificate::make("localhost");
    let relay = start(&certificate, &[]);
    let socket = udp_socket();
    socket.connect(relay.dtls()).unwrap();
    for noise in [&b"\0\x01\0\0"[..], &[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0], &[22; 40], &[]] {
        socket.send(noise).unwrap();
    }
    socket.send(&old_hello()).unwrap();
    let mut answer = [0; 256];
    let length = socket.recv(&mut answer).unwrap();
    // A fatal alert: protocol_version.
    assert_eq!((length, answer[0], &answer[13..15]), (15, 21, &[2, 70][..]));
}

/// How a client begins that knows no version from this century.
pub(crate) fn old_hello() -> Vec<u8> {
    let mut hello = hello(1, 0, &[], 0);
    hello[26] = 255;
    hello
}
