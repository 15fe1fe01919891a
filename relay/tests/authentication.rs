//! Every way to show who one is, against the real binary.

use farcall_relay::stun::{AttributeType, Method, PasswordAlgorithm};

use crate::support::{Client, Relay, echo_peer, udp};

/// Allocates, sends a datagram round by a channel, and releases.
fn call(client: &mut Client) {
    let peer = echo_peer();
    client.allocate();
    assert_eq!(client.bind(0x4000, peer), None);
    client.send_by_channel(0x4000, b"there and back");
    assert_eq!(client.receive()[4..18], *b"there and back");
    let zero = vec![(AttributeType::LIFETIME, vec![0; 4])];
    assert_eq!(client.ask(Method::REFRESH, &zero).code(), None);
}

#[test]
fn a_client_of_rfc8489_hides_its_name_and_is_answered_in_sha256() {
    let relay = Relay::start();
    for client in [Client::udp(relay.address), Client::tcp(relay.address)] {
        let mut client = client.modern();
        call(&mut client);
        let answer = client.ask(Method::ALLOCATE, &udp());
        let key = client.key(PasswordAlgorithm::Sha256);
        assert!(answer.message().verify_integrity_sha256(&key) && !answer.message().has_integrity());
    }
}

#[test]
fn the_challenge_is_88_bytes_for_the_default_realm() {
    let relay = Relay::start();
    let challenge = Client::udp(relay.address).ask_plainly(Method::ALLOCATE, &udp());
    assert_eq!((challenge.code(), challenge.bytes.len()), (Some(401), 88));
}
