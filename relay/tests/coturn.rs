//! Debian's coturn tools, which share no line with this project, find everything in order.

use std::process::Output;

use crate::support::{Relay, coturn_tool, echo_peer};

/// Debian's client picks channel numbers from RFC 5766's range.
const FLAGS: &[&str] = &["--allow-peer", "127.0.0.0/8", "--rfc5766-channels"];

/// Five clients send a hundred messages each to a peer that echoes; none may be lost.
fn uclient(credentials: &[&str], options: &[&str]) {
    let relay = Relay::start_with(FLAGS);
    let peer = echo_peer();
    let output = coturn_tool("turnutils_uclient")
        .args(credentials)
        .args(["-p", &relay.port(), "-e", "127.0.0.1", "-r", &peer.port().to_string()])
        .args(["-n", "100", "-m", "5", "-l", "170", "-z", "1", "-c", "-X"])
        .args(options)
        .arg("127.0.0.1")
        .output()
        .unwrap();
    let said = text(&output);
    assert!(said.contains("Total lost packets 0 (0.000000%)"), "{said}");
    assert!(said.contains("tot_send_msgs=500, tot_recv_msgs=500"), "{said}");
    // What it counts is what we counted: application data both ways, nothing else.
    for direction in ["to_peer", "to_client"] {
        let bytes = relay.metric(&format!("forwarded_bytes_total{{direction=\"{direction}\"}}"));
        assert!(bytes >= 500 * 170, "{bytes} {direction}");
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

const STATIC: &[&str] = &["-u", "alice", "-w", "wonder"];

#[test]
fn uclient_over_udp_with_channels() {
    uclient(STATIC, &["-g"]);
}

#[test]
fn uclient_over_udp_with_send() {
    uclient(STATIC, &["-g", "-s"]);
}

#[test]
fn uclient_over_tcp_with_channels() {
    uclient(STATIC, &["-t", "-g"]);
}

#[test]
fn uclient_over_tcp_with_send() {
    uclient(STATIC, &["-t", "-g", "-s"]);
}

#[test]
fn uclient_with_ephemeral_credentials() {
    uclient(&["-u", "session", "-W", "north"], &[]);
}

#[test]
fn uclient_with_ephemeral_credentials_over_tcp() {
    uclient(&["-u", "session", "-W", "north"], &["-t"]);
}

#[test]
fn uclient_from_client_to_client() {
    let relay = Relay::start_with(FLAGS);
    let output = coturn_tool("turnutils_uclient")
        .args(STATIC)
        .args([
            "-p",
            &relay.port(),
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
            "-y",
            "127.0.0.1",
        ])
        .output()
        .unwrap();
    let said = text(&output);
    assert!(said.contains("Total lost packets 0 (0.000000%)"), "{said}");
}

#[test]
fn stunclient_gets_its_address() {
    let relay = Relay::start();
    let output =
        coturn_tool("turnutils_stunclient").args(["-p", &relay.port(), "127.0.0.1"]).output().unwrap();
    let said = text(&output);
    assert!(said.contains("UDP reflexive addr: 127.0.0.1:"), "{said}");
}
