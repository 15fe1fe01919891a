//! Debian's coturn tools, which share no line with this project, find everything in order.

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use farcall_relay::auth::{AccessToken, OauthKey};
use farcall_relay::clock;

use crate::support::{Certificate, Relay, coturn_tool, echo_peer_at, has_ipv6};

/// Debian's client picks channel numbers from RFC 5766's range.
const FLAGS: &[&str] = &["--allow-peer", "127.0.0.0/8", "--rfc5766-channels"];

/// Five clients send a hundred messages each to a peer that echoes; none may be lost.
fn uclient(credentials: &[&str], options: &[&str]) {
    uclient_at(&Relay::start_with(FLAGS), credentials, options);
}

fn uclient_at(relay: &Relay, credentials: &[&str], options: &[&str]) {
    exchange(relay, relay.address, 5, &[credentials, options].concat());
}

/// The same by TLS or DTLS.
fn uclient_secured(clients: u64, pick: fn(&Relay) -> SocketAddr, options: &[&str]) {
    let certificate = Certificate::make("localhost");
    let files = certificate.flags();
    let listeners = ["--tls-listen=127.0.0.1:0", "--dtls-listen=127.0.0.1:0", &files[0], &files[1]];
    let relay = Relay::start_with(&[FLAGS, &listeners].concat());
    exchange(&relay, pick(&relay), clients, &[STATIC, options].concat());
}

fn exchange(relay: &Relay, server: SocketAddr, clients: u64, options: &[&str]) {
    let ip = if options.contains(&"-x") { "::1" } else { "127.0.0.1" };
    let peer = echo_peer_at(ip);
    let output = coturn_tool("turnutils_uclient")
        .args(["-p", &server.port().to_string(), "-e", ip, "-r", &peer.port().to_string()])
        .args(["-n", "100", "-m", &clients.to_string(), "-l", "170", "-z", "1", "-c", "-X"])
        .args(options)
        .arg(server.ip().to_string())
        .output()
        .unwrap();
    let said = text(&output);
    let messages = clients * 100;
    assert!(said.contains("Total lost packets 0 (0.000000%)"), "{said}");
    assert!(said.contains(&format!("tot_send_msgs={messages}, tot_recv_msgs={messages}")), "{said}");
    // What it counts is what we counted: application data both ways, nothing else.
    for direction in ["to_peer", "to_client"] {
        let bytes = relay.metric(&format!("forwarded_bytes_total{{direction=\"{direction}\"}}"));
        assert!(bytes >= messages * 170, "{bytes} {direction}");
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

/// The keys that are built into it, cut to the length of their algorithms as coturn does.
const OAUTH_KEYS: [&str; 3] = [
    "north:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "union:MTIzNDU2Nzg5MDEyMzQ1Ng==",
    "oldempire:MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=",
];

#[test]
fn uclient_with_access_tokens() {
    let keys = OAUTH_KEYS.iter().flat_map(|key| ["--oauth-key", key]);
    let flags = FLAGS.iter().copied().chain(keys).chain(["--oauth-server", "turn.example"]);
    let relay = Relay::start_with(&flags.collect::<Vec<_>>());
    uclient_at(&relay, &["-u", "somebody", "-J"], &[]);
    uclient_at(&relay, &["-u", "somebody", "-J"], &["-t"]);
}

#[test]
fn turnutils_oauth_opens_our_tokens_and_we_open_its() {
    let key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let ours = OauthKey::new("north".into(), b"01234567890123456789012345678901").unwrap();
    let common = [
        "-i",
        "turn.example",
        "-j",
        "north",
        "-k",
        key,
        "-l",
        "1400000000",
        "-m",
        "2000000000",
        "-n",
        "A256GCM",
    ];
    let now = clock::unix_time();
    let made = coturn_tool("turnutils_oauth")
        .args(["-e"])
        .args(common)
        .args(["-o", "MTIzNDU2Nzg5MDEy"])
        .args(["-p", "WmtzanB3ZW9peFhtdm42NzUzNG0=", "-r", "3600", "-q", &(now.0 << 16).to_string()])
        .output()
        .unwrap();
    let said = text(&made);
    let token = said.split('"').filter_map(|word| STANDARD.decode(word).ok()).find(|token| token.len() == 64);
    let token = token.unwrap_or_else(|| panic!("no token in {said}"));
    let opened = AccessToken::open(&token, &ours, "turn.example").unwrap();
    assert_eq!((opened.mac_key, opened.timestamp), (b"ZksjpweoixXmvn67534m".to_vec(), now.0 << 16));

    let token = AccessToken::made_at(now, Duration::from_secs(600), b"ZksjpweoixXmvn67534m".to_vec());
    let sealed = STANDARD.encode(token.seal(&ours, "turn.example", *b"nonce of it.").unwrap());
    let read = coturn_tool("turnutils_oauth")
        .args(["-v", "-d"])
        .args(common)
        .args(["-t", &sealed])
        .output()
        .unwrap();
    let said = text(&read);
    assert!(said.contains("lifetime: 600") && said.contains("mac key: ZksjpweoixXmvn67534m"), "{said}");
}

#[test]
fn uclient_over_tls_with_channels() {
    uclient_secured(5, Relay::tls, &["-t", "-S", "-g"]);
}

#[test]
fn uclient_over_tls_with_send() {
    uclient_secured(5, Relay::tls, &["-t", "-S", "-g", "-s"]);
}

/// Debian's client tries DTLS 1.0 now and then, and waits for a second before it tries anew.
#[test]
fn uclient_over_dtls_with_channels() {
    uclient_secured(1, Relay::dtls, &["-S", "-g"]);
}

#[test]
fn uclient_over_dtls_with_send() {
    uclient_secured(1, Relay::dtls, &["-S", "-g", "-s"]);
}

#[test]
fn uclient_with_an_ipv6_relay() {
    if !has_ipv6() {
        return;
    }
    let relay = Relay::start_with(&[FLAGS, &["--relay-ip", "127.0.0.1,::1", "--allow-peer", "::1"]].concat());
    exchange(&relay, relay.address, 5, &[STATIC, &["-x", "-g"]].concat());
}

#[test]
fn uclient_that_breaks_the_rules_now_and_then() {
    uclient(STATIC, &["-N", "-s"]);
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
