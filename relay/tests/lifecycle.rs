//! Start, stop, and what the operator is told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;

use crate::support::{Client, DEADLINE, Relay};

fn relay(flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farcall-relay")).args(flags).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn sigterm_and_sigint_end_it_with_success_although_a_call_is_on() {
    for signal in [Signal::TERM, Signal::INT] {
        let relay = Relay::start();
        let (mut by_udp, mut by_tcp) = (Client::udp(relay.address), Client::tcp(relay.address));
        by_udp.allocate();
        by_tcp.allocate();
        relay.signal(signal);
        by_tcp.wait_for_end();
        assert_eq!(relay.wait().code(), Some(0));
    }
}

#[test]
fn bad_configuration_is_one_message_per_mistake_and_exit_64() {
    let output = relay(&["--listen", "nowhere", "--allow-peer", "10.0.0.0/33", "--relay-ports", "9-1"]);
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    let keys: Vec<_> = said.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(keys, ["listen", "relay-ports", "allow-peer"], "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_flag_for_something_it_cannot_do_is_refused() {
    for flag in ["--tls-listen=127.0.0.1:1", "--alternate-listen=127.0.0.1:1"] {
        let output = relay(&[flag]);
        assert_eq!(output.status.code(), Some(64), "{flag}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(relay(&["--help"]).status.code(), Some(0));
    assert_eq!(relay(&["--version"]).status.code(), Some(0));
}

#[test]
fn an_address_that_is_taken_is_an_error_that_names_it() {
    let first = Relay::start();
    let address = first.address.to_string();
    let output = relay(&["--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
}

#[test]
fn environment_and_file_configure_it_too() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(
        b"listen = \"127.0.0.1:0\"\nworkers = 1\nrealm = \"from-the-file\"\nuser = [\"alice:file\"]\n",
    )
    .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_farcall-relay"));
    command
        .arg("--config")
        .arg(file.path())
        .env("FARCALL_RELAY_METRICS_LISTEN", "127.0.0.1:0")
        .env("FARCALL_RELAY_USER", "alice:environment");
    let relay = Relay::spawn(command);
    let mut client = Client::udp(relay.address).with_user("alice", "environment");
    client.allocate();
}

#[test]
fn metrics_and_health_are_served_and_nothing_else() {
    let relay = Relay::start();
    assert!(relay.get("/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(relay.get("/metrics").contains("# TYPE farcall_relay_allocations gauge"));
    assert!(relay.get("/").starts_with("HTTP/1.1 404 "));
    let mut stream = TcpStream::connect(relay.metrics_address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"\xff\xfe\r\n\r\n").unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).unwrap();
    assert!(said.starts_with(b"HTTP/1.1 405 "));
}
