//! RFC 6062 over real sockets. There are two workers, and the kernel chooses which of them a connection meets: what is
//! tried several times is tried with both.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use farcall_relay::clock;
use farcall_relay::stun::{AttributeType, Class, Method};
use rustls::version::TLS13;

use crate::support::{Attributes, Certificate, Client, DEADLINE, Relay};

fn tcp() -> Attributes {
    vec![(AttributeType::REQUESTED_TRANSPORT, vec![6, 0, 0, 0])]
}

fn number(value: &[u8]) -> Attributes {
    vec![(AttributeType::CONNECTION_ID, value.to_vec())]
}

fn allocate(client: &mut Client) -> SocketAddr {
    let answer = client.ask(Method::ALLOCATE, &tcp());
    assert_eq!(answer.code(), None);
    answer.address(AttributeType::XOR_RELAYED_ADDRESS)
}

/// Has the relay connect to a peer; returns the connection's number.
fn connect(client: &mut Client, peer: SocketAddr) -> Result<Vec<u8>, u16> {
    let answer = client.ask_about(Method::CONNECT, peer, &vec![]);
    match answer.code() {
        Some(code) => Err(code),
        None => Ok(answer.message().find(AttributeType::CONNECTION_ID).unwrap().to_vec()),
    }
}

fn stream(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Comes for a connection by a new stream, which carries its bytes from then on.
fn come_for(relay: &Relay, id: &[u8]) -> TcpStream {
    let data = stream(relay.address);
    let mut client = Client::over(data.try_clone().unwrap());
    assert_eq!(client.ask(Method::CONNECTION_BIND, &number(id)).code(), None);
    data
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    peer.set_write_timeout(Some(DEADLINE)).unwrap();
    peer
}

/// Different every time, and recognisable.
fn content(length: usize, seed: u32) -> Vec<u8> {
    (0u32..).map(|at| (at.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8).take(length).collect()
}

/// One end says a lot and ends; then the other does, and both hear all of it.
fn talk(mut client: TcpStream, mut peer: TcpStream, length: usize) {
    let (to_peer, to_client) = (content(length, 1), content(length, 2));
    let expected = to_peer.clone();
    let at_peer = thread::spawn(move || {
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).unwrap();
        assert!(heard == expected, "what the client said");
        // The client has ended, and still listens.
        peer.write_all(&to_client).unwrap();
        drop(peer);
        to_client
    });
    client.write_all(&to_peer).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).unwrap();
    assert!(heard == at_peer.join().unwrap(), "what the peer said");
}

#[test]
fn a_client_connects_to_peers_and_everything_said_arrives_up_to_the_end_of_either_side() {
    let relay = Relay::start();
    let (listener, address) = listener();
    let mut client = Client::tcp(relay.address);
    let relayed = allocate(&mut client);
    for _ in 0..8 {
        let id = connect(&mut client, address).unwrap();
        let peer = accept(&listener);
        assert_eq!(peer.peer_addr().unwrap(), relayed);
        talk(come_for(&relay, &id), peer, 300_000);
    }
    assert_eq!(relay.metric("requests_total{method=\"connection_bind\",result=\"success\"}"), 8);
}

#[test]
fn peers_connect_to_a_relayed_address_once_they_are_permitted() {
    let relay = Relay::start();
    let mut client = Client::tcp(relay.address);
    let relayed = allocate(&mut client);
    let mut early = stream(relayed);
    assert_eq!(read_end(&mut early), 0, "without a permission it is closed");
    assert_eq!(client.permit("127.0.0.1:1".parse().unwrap()), None);
    for _ in 0..8 {
        let peer = stream(relayed);
        let said = client.receive();
        let message = farcall_relay::stun::Message::parse(&said).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::CONNECTION_ATTEMPT));
        let from = message.find_xor_address(AttributeType::XOR_PEER_ADDRESS).unwrap();
        assert_eq!(from, peer.local_addr().unwrap());
        let id = message.find(AttributeType::CONNECTION_ID).unwrap();
        talk(come_for(&relay, id), peer, 100_000);
    }
}

fn read_end(stream: &mut TcpStream) -> usize {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(length) => length,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            0
        }
    }
}

#[test]
fn what_a_peer_says_first_and_what_a_client_sends_at_once_is_not_lost() {
    let relay = Relay::start();
    let (listener, address) = listener();
    let mut client = Client::tcp(relay.address);
    allocate(&mut client);
    let id = connect(&mut client, address).unwrap();
    let mut peer = accept(&listener);
    peer.write_all(b"220 welcome").unwrap();
    let mut data = stream(relay.address);
    let mut by_data = Client::over(data.try_clone().unwrap());
    let request = by_data.prepare(Method::CONNECTION_BIND, &number(&id));
    data.write_all(&[&request[..], b"HELO client"].concat()).unwrap();
    let mut heard = [0; 11];
    peer.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"HELO client");
    // The answer comes first, and nothing behind it belongs to it.
    let mut answer = [0; 20];
    data.read_exact(&mut answer).unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([answer[2], answer[3]]))];
    data.read_exact(&mut rest).unwrap();
    assert_eq!(
        farcall_relay::stun::Message::parse(&[&answer[..], &rest].concat()).unwrap().class(),
        Class::Success
    );
    data.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"220 welcome");
}

#[test]
fn it_goes_inside_tls_at_both_streams_of_the_client() {
    let certificate = Certificate::make("localhost");
    let flags = ["--tls-listen", "127.0.0.1:0", "--allow-peer", "127.0.0.0/8"];
    let flags: Vec<String> = flags.map(str::to_owned).into_iter().chain(certificate.flags()).collect();
    let relay = Relay::start_with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let (listener, address) = listener();
    let secure = || Client::tls(stream(relay.tls()), certificate.client(&[&TLS13], None));
    let (mut client, _control) = secure();
    allocate(&mut client);
    for round in 0..4 {
        let id = connect(&mut client, address).unwrap();
        let mut peer = accept(&listener);
        let (mut by_data, data) = secure();
        assert_eq!(by_data.ask(Method::CONNECTION_BIND, &number(&id)).code(), None);
        let mut data = data.lock().unwrap();
        let said = content(200_000, round);
        let expected = said.clone();
        let echo = thread::spawn(move || {
            let mut heard = vec![0; 200_000];
            peer.read_exact(&mut heard).unwrap();
            assert!(heard == expected);
            peer.write_all(&heard).unwrap();
        });
        data.write_all(&said).unwrap();
        data.flush().unwrap();
        let mut heard = Vec::new();
        data.read_to_end(&mut heard).unwrap();
        assert!(heard == said, "round {round}, and then a proper end");
        echo.join().unwrap();
    }
}

#[test]
fn nobody_gets_at_anothers_connection_nor_one_that_is_not_there() {
    let relay = Relay::start();
    let (listener, address) = listener();
    let mut client = Client::tcp(relay.address);
    allocate(&mut client);
    let id = connect(&mut client, address).unwrap();
    let _peer = accept(&listener);
    for _ in 0..4 {
        let mut bob = Client::tcp(relay.address).with_user("bob", "builder");
        assert_eq!(bob.ask(Method::CONNECTION_BIND, &number(&id)).code(), Some(441));
        let mut stranger = Client::tcp(relay.address);
        assert_eq!(stranger.ask_plainly(Method::CONNECTION_BIND, &number(&id)).code(), Some(401));
    }
    let mut changed = id.clone();
    changed[0] ^= 1;
    for wrong in [&changed[..], &[0; 4], &id[..3]] {
        let mut client = Client::tcp(relay.address);
        assert_eq!(client.ask(Method::CONNECTION_BIND, &number(wrong)).code(), Some(400), "{wrong:?}");
    }
    assert_eq!(client.ask(Method::CONNECTION_BIND, &number(&id)).code(), Some(400), "the control connection");
    let mut by_datagram = Client::udp(relay.address);
    assert_eq!(by_datagram.ask(Method::CONNECTION_BIND, &number(&id)).code(), Some(400));
    let _data = come_for(&relay, &id);
}

#[test]
fn a_peer_that_refuses_is_a_447_and_one_that_is_forbidden_a_403() {
    let relay = Relay::start();
    let (listener, address) = listener();
    let mut client = Client::tcp(relay.address);
    allocate(&mut client);
    drop(listener);
    assert_eq!(connect(&mut client, address), Err(447));
    assert_eq!(connect(&mut client, relay.address), Err(403), "a listener of the relay's own");

    let safe = Relay::start_with(&[]);
    let (_listener, address) = self::listener();
    let mut client = Client::tcp(safe.address);
    allocate(&mut client);
    for peer in [address, "10.0.0.1:80".parse().unwrap(), "169.254.169.254:80".parse().unwrap()] {
        assert_eq!(connect(&mut client, peer), Err(403), "{peer}");
    }
    let none = Relay::start_with(&["--no-tcp-relay"]);
    assert_eq!(Client::tcp(none.address).ask(Method::ALLOCATE, &tcp()).code(), Some(442));
}

#[test]
fn both_ends_hear_when_the_allocation_is_over() {
    let relay = Relay::start();
    let (listener, address) = listener();
    for ends_control in [true, false] {
        let control = stream(relay.address);
        let mut client = Client::over(control.try_clone().unwrap());
        allocate(&mut client);
        let id = connect(&mut client, address).unwrap();
        let mut peer = accept(&listener);
        let mut data = come_for(&relay, &id);
        if ends_control {
            control.shutdown(Shutdown::Both).unwrap();
        } else {
            let zero = vec![(AttributeType::LIFETIME, vec![0; 4])];
            assert_eq!(client.ask(Method::REFRESH, &zero).code(), None);
        }
        assert_eq!((read_end(&mut peer), read_end(&mut data)), (0, 0));
    }
    relay.wait_for_metric("allocations", 0);
}

#[test]
fn two_clients_meet_at_each_others_relayed_addresses() {
    let relay = Relay::start_with(&[]);
    let (mut alice, mut bob) =
        (Client::tcp(relay.address), Client::tcp(relay.address).with_user("bob", "builder"));
    let (_, at) = (allocate(&mut alice), allocate(&mut bob));
    assert_eq!(bob.permit(at), None, "a relayed address of this server");
    let id = connect(&mut alice, at).unwrap();
    let said = bob.receive();
    let message = farcall_relay::stun::Message::parse(&said).unwrap();
    let bobs = message.find(AttributeType::CONNECTION_ID).unwrap().to_vec();
    let by_alice = come_for(&relay, &id);
    let data = stream(relay.address);
    let mut by_bob = Client::over(data.try_clone().unwrap()).with_user("bob", "builder");
    assert_eq!(by_bob.ask(Method::CONNECTION_BIND, &number(&bobs)).code(), None);
    // Else its socket stays open when the other half of the test closes it.
    drop(by_bob);
    talk(by_alice, data, 100_000);
}

#[test]
fn whoever_reads_nothing_holds_the_other_up_and_loses_nothing() {
    let relay = Relay::start();
    let (listener, address) = listener();
    let mut client = Client::tcp(relay.address);
    allocate(&mut client);
    let id = connect(&mut client, address).unwrap();
    let mut peer = accept(&listener);
    let mut data = come_for(&relay, &id);
    peer.set_nonblocking(true).unwrap();
    let block = vec![7; 65_536];
    let (mut sent, mut last) = (0usize, clock::now());
    // Until nothing has been taken for a while: all buffers on the way are full.
    while last.elapsed() < std::time::Duration::from_millis(500) {
        match peer.write(&block) {
            Ok(count) => {
                sent += count;
                last = clock::now();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(sent < 64 << 20, "the relay keeps what nobody reads");
    }
    drop(peer);
    let mut heard = Vec::new();
    data.read_to_end(&mut heard).unwrap();
    assert_eq!(heard.len(), sent);
}

#[test]
fn a_user_with_a_bandwidth_is_slowed_and_loses_nothing() {
    let relay = Relay::start_with(&["--allow-peer", "127.0.0.0/8", "--user-bandwidth", "400000"]);
    let (listener, address) = listener();
    let mut client = Client::tcp(relay.address);
    allocate(&mut client);
    let id = connect(&mut client, address).unwrap();
    let peer = accept(&listener);
    let begun = clock::now();
    // A second's worth is free: of 1.2 MB both ways, two seconds' worth is not.
    talk(come_for(&relay, &id), peer, 600_000);
    assert!(begun.elapsed() > std::time::Duration::from_millis(1500), "{:?}", begun.elapsed());
}
