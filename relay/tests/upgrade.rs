//! One process goes on for another: nothing is lost, nothing comes twice, and whatever goes wrong changes nothing.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use farcall_relay::stun::{AttributeType, Message, Method};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Answer, Certificate, Client, DEADLINE, Relay, echo_peer, udp_and, udp_socket, until};

/// Where the relays of one test hand over.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("upgrade")
    }

    /// A relay that listens at `address`, or goes on for the one that does.
    fn command(&self, address: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farcall-relay"));
        command
            .args(["--listen", address, "--metrics-listen", "127.0.0.1:0", "--workers", "2"])
            .args(["--user", "alice:wonder", "--user", "bob:builder", "--allow-peer", "127.0.0.0/8"])
            .arg("--upgrade-socket")
            .arg(self.socket())
            .args(flags);
        command
    }

    fn start(&self) -> Relay {
        self.start_with(&[])
    }

    fn start_with(&self, flags: &[&str]) -> Relay {
        Relay::spawn(self.command("127.0.0.1:0", flags))
    }

    fn start_after(&self, old: &Relay) -> Relay {
        self.start_after_with(old, &[])
    }

    fn start_after_with(&self, old: &Relay, flags: &[&str]) -> Relay {
        Relay::spawn(self.command(&old.address.to_string(), flags))
    }
}

/// How a client says something to its peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Channel,
    Indication(SocketAddr),
}

impl Way {
    fn send(self, client: &mut Client, data: &[u8]) {
        match self {
            Self::Channel => client.send_by_channel(CHANNEL, data),
            Self::Indication(peer) => client.send(peer, data, &vec![]),
        }
    }

    fn receive(self, client: &mut Client) -> Vec<u8> {
        let frame = client.receive();
        match self {
            Self::Channel => {
                assert_eq!(frame[..2], CHANNEL.to_be_bytes());
                frame[4..].to_vec()
            }
            Self::Indication(peer) => {
                let message = Message::parse(&frame).unwrap();
                assert_eq!(message.method(), Method::DATA);
                assert_eq!(message.find_xor_address(AttributeType::XOR_PEER_ADDRESS), Some(peer));
                message.find(AttributeType::DATA).unwrap().to_vec()
            }
        }
    }
}

/// Numbered datagrams to an echo and back, some on the way at any time, for as long as `is_on` and a while longer. Every
/// one must come back once and in order.
fn flood(client: &mut Client, way: Way, is_on: &AtomicBool) -> u64 {
    let (mut sent, mut received) = (0u64, 0u64);
    let mut more = 200;
    while received < sent || more > 0 {
        while sent < received + WINDOW && more > 0 {
            way.send(client, &sent.to_be_bytes());
            sent += 1;
            more -= u64::from(!is_on.load(Ordering::Relaxed));
        }
        let data = way.receive(client);
        let number = u64::from_be_bytes(data[..].try_into().unwrap());
        assert_eq!(number, received, "lost, doubled or out of order");
        received += 1;
    }
    way.send(client, b"the end");
    sent
}

/// Says everything again, in order and each once, until it hears of the end.
fn repeat(client: &mut Client) -> u64 {
    for expected in 0.. {
        let data = Way::Channel.receive(client);
        if data == b"the end" {
            return expected;
        }
        assert_eq!(data, u64::to_be_bytes(expected), "lost, doubled or out of order");
        client.send_by_channel(CHANNEL, &data);
    }
    0
}

/// A client whose allocation knows a peer by its channel.
fn bound(relay: &Relay, peer: SocketAddr) -> Client {
    let mut client = Client::udp(relay.address);
    client.allocate();
    assert_eq!(client.bind(CHANNEL, peer), None);
    client
}

/// Two clients of one server that know each other.
fn pair(relay: &Relay) -> (Client, Client) {
    let (mut one, mut other) = (Client::udp(relay.address), Client::udp(relay.address));
    let (at, other_at) = (one.allocate(), other.allocate());
    assert_eq!((one.bind(CHANNEL, other_at), other.bind(CHANNEL, at)), (None, None));
    (one, other)
}

fn forwarded(relay: &Relay) -> u64 {
    relay.metric("forwarded_datagrams_total{direction=\"to_peer\"}")
}

/// The heart of it: every client of a kind that another cannot replace, several upgrades in a row, and not one datagram.
#[test]
fn a_flood_goes_through_upgrade_after_upgrade_without_a_loss_and_everything_survives() {
    let place = Place::new();
    let first = place.start();
    assert_eq!(fs::metadata(place.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let echo = echo_peer();
    let mut channels: Vec<_> = (0..3).map(|_| bound(&first, echo)).collect();
    let mut by_indication = Client::udp(first.address);
    by_indication.allocate();
    assert_eq!(by_indication.permit(echo), None);
    // Four, so that some are of different workers.
    let mut pairs: Vec<_> = (0..4).map(|_| pair(&first)).collect();

    let is_on = AtomicBool::new(true);
    let last = thread::scope(|scope| {
        let _floods_end_if_this_fails = Off(&is_on);
        let is_on = &is_on;
        let mut floods = Vec::new();
        for client in &mut channels {
            floods.push(scope.spawn(|| flood(client, Way::Channel, is_on)));
        }
        floods.push(scope.spawn(|| flood(&mut by_indication, Way::Indication(echo), is_on)));
        let mut repeats = Vec::new();
        for (one, other) in &mut pairs {
            floods.push(scope.spawn(|| flood(one, Way::Channel, is_on)));
            repeats.push(scope.spawn(|| repeat(other)));
        }
        let mut relay = first;
        for _ in 0..3 {
            let begun = forwarded(&relay);
            until("a flood", || (forwarded(&relay) > begun + 500).then_some(()));
            let next = place.start_after(&relay);
            assert_eq!(next.address, relay.address);
            assert_eq!(relay.wait().code(), Some(0), "nobody is left");
            relay = next;
        }
        until("a flood", || (forwarded(&relay) > 500).then_some(()));
        is_on.store(false, Ordering::Relaxed);
        let sent: u64 = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
        let repeated: u64 = repeats.into_iter().map(|repeat| repeat.join().unwrap()).sum();
        assert!(sent > 2000 && repeated > 0 && repeated < sent, "{sent} {repeated}");
        relay
    });
    assert_eq!(last.metric("allocations"), 12);
    assert!(last.metric("internal_datagrams_total") > 0);
    // The echoes of their last words.
    channels.iter_mut().chain([&mut by_indication]).for_each(|client| drop(client.receive()));
    for client in channels.iter_mut().chain(pairs.iter_mut().flat_map(|(one, other)| [one, other])) {
        assert_eq!(client.ask(Method::REFRESH, &vec![]).code(), None);
        assert_eq!(client.bind(CHANNEL + 1, udp_socket().local_addr().unwrap()), None);
    }
    assert_eq!(
        by_indication.ask(Method::ALLOCATE, &udp_and(AttributeType::EVEN_PORT, &[0])).code(),
        Some(437)
    );
}

struct Off<'a>(&'a AtomicBool);

impl Drop for Off<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[test]
fn who_comes_by_stream_stays_with_the_old_one_and_talks_to_those_who_went() {
    let place = Place::new();
    let (mut by_tcp, mut by_udp, old) = {
        let old = place.start();
        (Client::tcp(old.address).with_user("bob", "builder"), Client::udp(old.address), old)
    };
    let (stays, goes) = (by_tcp.allocate(), by_udp.allocate());
    assert_eq!((by_tcp.bind(CHANNEL, goes), by_udp.bind(CHANNEL, stays)), (None, None));
    let new = place.start_after(&old);
    // The old one answers until it has heard that it is the old one.
    new.wait_for_metric("allocations", 1);
    for _ in 0..3 {
        by_tcp.send_by_channel(CHANNEL, b"to the new one");
        assert_eq!(&by_udp.receive()[4..], b"to the new one");
        by_udp.send_by_channel(CHANNEL, b"to the old one");
        assert_eq!(&by_tcp.receive()[4..18], b"to the old one");
    }
    assert_eq!(by_tcp.bind(CHANNEL, goes), None, "who went is no stranger");
    assert_eq!(by_udp.bind(CHANNEL, stays), None, "nor is who stayed");
    // New ones are new in every respect.
    let fresh = Client::tcp(new.address).allocate();
    assert!(fresh != stays && fresh != goes);
    drop(by_tcp);
    assert_eq!(old.wait().code(), Some(0), "with its last client it ends");
    let newer = place.start_after(&new);
    assert_eq!(by_udp.ask(Method::REFRESH, &vec![]).code(), None);
    assert_eq!(new.wait().code(), Some(0));
    assert_eq!(newer.metric("allocations"), 1);
}

#[test]
fn quota_tokens_tickets_and_what_was_counted_survive() {
    let place = Place::new();
    let log = place.path("usage");
    let flags = ["--user-quota", "2", "--usage-log", log.to_str().unwrap()];
    let old = place.start_with(&flags);
    let ticket_of = |answer: &Answer| answer.message().find(AttributeType::MOBILITY_TICKET).unwrap().to_vec();
    let with = |ticket| vec![(AttributeType::MOBILITY_TICKET, ticket)];

    let peer = udp_socket();
    let mut even = Client::udp(old.address);
    let answer = even.ask(Method::ALLOCATE, &udp_and(AttributeType::EVEN_PORT, &[0x80]));
    let lower = answer.address(AttributeType::XOR_RELAYED_ADDRESS);
    let token = answer.message().find(AttributeType::RESERVATION_TOKEN).unwrap().to_vec();
    assert_eq!(even.bind(CHANNEL, peer.local_addr().unwrap()), None);
    even.send_by_channel(CHANNEL, b"12345");
    peer.recv(&mut [0; 8]).unwrap();

    // Two that may move, one of which has lost its stream.
    let mut stays = Client::udp(old.address).with_user("bob", "builder");
    let first = ticket_of(&stays.ask(Method::ALLOCATE, &udp_and(AttributeType::MOBILITY_TICKET, &[])));
    let mut lost = Client::tcp(old.address).with_user("bob", "builder");
    let second = ticket_of(&lost.ask(Method::ALLOCATE, &udp_and(AttributeType::MOBILITY_TICKET, &[])));
    drop(lost);
    old.wait_for_metric("stream_clients", 0);

    let new = place.start_after_with(&old, &flags);
    assert_eq!(old.wait().code(), Some(0));
    assert_eq!(
        Client::udp(new.address).ask(Method::ALLOCATE, &udp_and(AttributeType::EVEN_PORT, &[0])).code(),
        Some(486)
    );
    let mut upper = Client::udp(new.address);
    let answer = upper.ask(Method::ALLOCATE, &udp_and(AttributeType::RESERVATION_TOKEN, &token));
    assert_eq!(answer.address(AttributeType::XOR_RELAYED_ADDRESS).port(), lower.port() + 1);
    for ticket in [first, second] {
        for _ in 0..4 {
            let mut moved = Client::udp(new.address).with_user("bob", "builder");
            assert_eq!(moved.ask(Method::REFRESH, &with(ticket.clone())).code(), None);
        }
    }
    even.send_by_channel(CHANNEL, b"678");
    peer.recv(&mut [0; 8]).unwrap();
    assert_eq!(even.ask(Method::REFRESH, &vec![(AttributeType::LIFETIME, vec![0; 4])]).code(), None);
    let records = until("a record", || {
        let records = fs::read_to_string(&log).unwrap();
        records.ends_with('\n').then_some(records)
    });
    assert_eq!(records.lines().count(), 1, "being handed over is no end: {records}");
    let record: serde_json::Value = serde_json::from_str(&records).unwrap();
    assert_eq!(record["to_peer"]["bytes"], 8, "{record}");
    assert_eq!(record["reason"], "released");
}

#[test]
fn a_successor_that_cannot_go_on_changes_nothing() {
    let place = Place::new();
    let old = place.start();
    let mut client = bound(&old, echo_peer());

    // Another listener, a bad configuration, and a port that is taken.
    let other = udp_socket().local_addr().unwrap().to_string();
    let metrics = old.metrics_address().to_string();
    for (address, flags, code) in [
        (other.as_str(), &[][..], 1),
        (&old.address.to_string(), &["--relay-ports", "9-1"][..], 64),
        (&old.address.to_string(), &["--admin-listen", metrics.as_str()][..], 1),
    ] {
        let output = place.command(address, flags).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty());
        flood_once(&mut client);
    }

    // One that dies, or says nonsense, in the middle.
    let deaths: [&[&[u8]]; 7] = [
        &[],
        &[b"null"],
        &[b"\"\""],
        &[b"null", b"{}"],
        &[b"{{{{{{{{"],
        &[b"null", b"[[[[[["],
        &[b"null", &[0xff; 500]],
    ];
    for last_words in deaths {
        let mut stream = Other::connect(&place);
        stream.say(br#"{"version":1}"#);
        assert!(stream.hear().starts_with(b"{\"Made\""));
        for (step, words) in last_words.iter().enumerate() {
            stream.say(words);
            if step == 0 && *words == b"null" {
                // The old one stands still by now, and has sent its state.
                assert!(stream.hear().windows(11).any(|words| words == b"next_serial"));
            }
        }
        drop(stream);
        flood_once(&mut client);
    }

    // Noise, a length beyond all bounds, a message cut short, and another version.
    for noise in [&b"\xff\xff\xff\xff"[..], b"\0\0\x03\xff", b"\0\0\0\x09{\"vers", b"GET / HTTP/1.1\r\n\r\n"]
    {
        let mut stream = UnixStream::connect(place.socket()).unwrap();
        stream.write_all(noise).unwrap();
        drop(stream);
    }
    let mut stream = Other::connect(&place);
    stream.say(br#"{"version":999}"#);
    let answer = String::from_utf8(stream.hear()).unwrap();
    assert!(answer.contains("Refused") && answer.contains("restart"), "{answer}");
    drop(stream);
    flood_once(&mut client);

    // And after all that one that can.
    let new = place.start_after(&old);
    flood_once(&mut client);
    assert_eq!(old.wait().code(), Some(0));
    assert_eq!(new.metric("allocations"), 1);
}

/// Only root can be somebody else; for others the socket's mode is all that there is to try.
#[test]
fn whoever_is_another_user_takes_nothing_over() {
    let place = Place::new();
    let old = place.start();
    let mut client = bound(&old, echo_peer());
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(place.socket()), 0o600, "the socket is its owner's alone");
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: only root can start a process of another user");
        return;
    }
    // The way is open: whatever refuses now is the process itself.
    let (folder, socket) = (place.folder.path().to_owned(), place.socket());
    for (path, mode) in [(folder, 0o755), (socket, 0o777)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let program = place.path("farcall-relay");
    fs::copy(env!("CARGO_BIN_EXE_farcall-relay"), &program).unwrap();
    let theirs = place.command(&old.address.to_string(), &[]);
    // If it did take over, it would go on for ever.
    let output = Command::new("timeout")
        .args(["20", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args(theirs.get_args())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{:?} {said}", output.status);
    flood_once(&mut client);
    // Its own user goes on as ever.
    let new = place.start_after(&old);
    flood_once(&mut client);
    assert_eq!(new.metric("allocations"), 1);
}

fn flood_once(client: &mut Client) {
    flood(client, Way::Channel, &AtomicBool::new(false));
    // The echo of the last word.
    client.receive();
}

/// Killed at any moment, the new one leaves either the old one serving or, had it taken over, nobody: never two. What
/// cannot be chosen by hand is left to chance here.
#[test]
fn a_successor_killed_while_it_makes_ready_leaves_the_old_one_serving() {
    let place = Place::new();
    let old = place.start();
    let mut client = bound(&old, echo_peer());
    // Nobody answers there, so that it waits for its external address after it has the listening sockets.
    let hole = udp_socket();
    let silent = hole.local_addr().unwrap().to_string();
    let log = place.path("log");
    let mut command = place.command(
        &old.address.to_string(),
        &["--external-ip", "auto", "--external-ip-server", &silent, "--log", "info"],
    );
    let mut child = command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    until("the beginning of a take-over", || {
        fs::read_to_string(&log).unwrap().contains("Taking over").then_some(())
    });
    flood_once(&mut client);
    child.kill().unwrap();
    child.wait().unwrap();
    flood_once(&mut client);
    let new = place.start_after(&old);
    flood_once(&mut client);
    assert_eq!(old.wait().code(), Some(0));
    assert_eq!(new.metric("allocations"), 1);
}

#[test]
fn who_is_about_to_take_over_keeps_nobody_from_ending() {
    let place = Place::new();
    let old = place.start();
    let mut stream = Other::connect(&place);
    stream.say(br#"{"version":1}"#);
    stream.hear();
    old.signal(Signal::TERM);
    assert_eq!(old.wait().code(), Some(0));
}

#[test]
fn sigusr2_starts_the_successor_and_the_service_manager_hears_of_it() {
    let place = Place::new();
    let manager = UnixDatagram::bind(place.path("notify")).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command =
        place.command("127.0.0.1:0", &["--admin-listen", &format!("unix:{}", place.path("admin").display())]);
    command.env("NOTIFY_SOCKET", place.path("notify"));
    let old = Relay::spawn(command);
    let heard = || {
        let mut buffer = [0; 200];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(heard(), "READY=1");
    let mut client = Client::udp(old.address);
    client.allocate();
    // The successor has the same flags, port 0 among them, and finds its listeners by what it is given.
    old.signal(Signal::USR2);
    let (address, old_pid) = (old.address, old.pid());
    assert_eq!(old.wait().code(), Some(0));
    assert_eq!(client.ask(Method::REFRESH, &vec![]).code(), None);
    Client::tcp(address).allocate();
    let said = [heard(), heard()];
    let pid = said.iter().find_map(|said| said.strip_prefix("MAINPID=")).unwrap().parse().unwrap();
    assert!(pid != old_pid && said.contains(&"READY=1".to_owned()), "{said:?}");
    assert!(UnixStream::connect(place.path("admin")).is_ok());
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    assert_eq!(heard(), "STOPPING=1", "the old one's end was none");
}

#[test]
fn dtls_goes_at_once_where_nobody_needs_it_and_alternate_addresses_go_too() {
    let place = Place::new();
    let certificate = Certificate::make("localhost");
    let flags: Vec<_> =
        ["--dtls-listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0", "--alternate-listen", "127.0.0.2:0"]
            .into_iter()
            .map(str::to_owned)
            .chain(certificate.flags())
            .collect();
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let old = place.start_with(&flags);
    let mut by_tcp = Client::tcp(old.address);
    by_tcp.allocate();
    let new = place.start_after_with(&old, &flags);
    assert_eq!((old.dtls(), old.tls(), old.alternate()), (new.dtls(), new.tls(), new.alternate()));
    // Whoever comes by DTLS now is the new one's, although the old one is still here.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(new.dtls()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    // An alert, to a client of SSL 3.
    socket.send(&crate::secure::old_hello()).unwrap();
    assert_eq!(socket.recv(&mut [0; 200]).unwrap(), 15);
    assert_eq!(Client::udp(new.alternate()).ask_plainly(Method::BINDING, &vec![]).code(), None);
    drop(by_tcp);
    assert_eq!(old.wait().code(), Some(0));
    assert_eq!(Client::udp(new.alternate()).ask_plainly(Method::BINDING, &vec![]).code(), None);
}

/// Somebody who speaks as a successor does, as far as that goes.
struct Other(UnixStream);

impl Other {
    fn connect(place: &Place) -> Self {
        let stream = UnixStream::connect(place.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(stream)
    }

    fn say(&mut self, words: &[u8]) {
        let length = u32::try_from(words.len()).unwrap();
        // It may have hung up on us already.
        let _ = self.0.write_all(&[&length.to_be_bytes(), words].concat());
    }

    fn hear(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        // Descriptors come beside single bytes, which read as ordinary ones.
        loop {
            self.0.read_exact(&mut length[..1]).unwrap();
            if length[0] != b'D' {
                break;
            }
        }
        self.0.read_exact(&mut length[1..]).unwrap();
        let mut words = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        self.0.read_exact(&mut words).unwrap();
        words
    }
}

const CHANNEL: u16 = 0x4000;
/// On the way at a time: no buffer is that small.
const WINDOW: u64 = 16;
