//! The batched data plane equals the portable one, byte for byte.

use std::net::{SocketAddr, UdpSocket};

use farcall_relay::io::{Envelope, Outbox, Plane, Purpose};
use farcall_relay::stun::{AttributeType, ChannelNumber, Message, channel_data};

use crate::support::{Client, Relay, udp_socket};

/// Runs of one size with shorter ends, single ones, empty ones, and some longer than any MTU.
const LENGTHS: [usize; 24] = [
    1200, 1200, 1200, 1200, 1200, 1200, 1200, 300, 160, 160, 160, 161, 0, 0, 1, 1, 1, 4000, 4000, 1472, 1473,
    9000, 20, 20,
];

type Datagrams = Vec<Vec<u8>>;

fn payloads() -> Datagrams {
    LENGTHS.iter().enumerate().map(|(at, length)| vec![at.to_le_bytes()[0]; *length]).collect()
}

/// All at once, so that they come as bursts.
fn send(socket: &UdpSocket, to: SocketAddr, datagrams: &[Vec<u8>]) {
    let mut outbox = Outbox::new(Plane::Batched);
    for datagram in datagrams {
        let envelope = Envelope { via: (), to, from: None, purpose: Purpose::ToPeer };
        outbox.push(envelope, &[], datagram, datagram.len());
    }
    outbox.flush(|()| Some(socket), |outcome| outcome.sent.unwrap());
}

fn receive(socket: &UdpSocket) -> Datagrams {
    let mut buffer = [0; 65536];
    LENGTHS
        .iter()
        .map(|_| {
            let length = socket.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        })
        .collect()
}

/// What comes out at the peer, and at the client by a channel and by indications.
fn carry(plane: &str) -> [Datagrams; 3] {
    let relay = Relay::start_with(&["--allow-peer", "127.0.0.0/8", "--data-plane", plane]);
    let mut client = Client::udp(relay.address);
    let (bound, permitted) = (udp_socket(), udp_socket());
    let relayed = client.allocate();
    assert_eq!(client.bind(0x4000, bound.local_addr().unwrap()), None);
    let channel = ChannelNumber::new(0x4000).unwrap();
    let frames: Datagrams = payloads()
        .iter()
        .map(|data| [&channel_data::header(channel, data.len()).unwrap(), &data[..]].concat())
        .collect();
    send(client.udp_socket(), relay.address, &frames);
    let at_peer = receive(&bound);
    send(&bound, relayed, &at_peer);
    let by_channel = receive(client.udp_socket());
    assert_eq!(by_channel, frames);
    send(&permitted, relayed, &at_peer);
    let by_indication = receive(client.udp_socket())
        .iter()
        .map(|bytes| {
            let message = Message::parse(bytes).unwrap();
            let peer = message.find_xor_address(AttributeType::XOR_PEER_ADDRESS);
            assert_eq!(peer, Some(permitted.local_addr().unwrap()));
            message.find(AttributeType::DATA).unwrap().to_vec()
        })
        .collect();
    let count = LENGTHS.len() as u64;
    relay.wait_for_metric("forwarded_datagrams_total{direction=\"to_client\"}", 2 * count);
    assert_eq!(relay.metric("forwarded_datagrams_total{direction=\"to_peer\"}"), count);
    let bytes: usize = LENGTHS.iter().sum();
    assert_eq!(relay.metric("forwarded_bytes_total{direction=\"to_client\"}"), 2 * bytes as u64);
    [at_peer, by_channel, by_indication]
}

#[test]
fn both_data_planes_carry_the_same_bytes() {
    let batched = carry("batched");
    assert_eq!(batched[0], payloads());
    assert_eq!(batched[2], payloads());
    assert_eq!(batched, carry("portable"));
}

#[test]
fn a_listener_on_all_addresses_answers_from_the_one_that_was_asked() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_farcall-relay"));
    command.args(["--listen", "0.0.0.0:0", "--metrics-listen", "127.0.0.1:0", "--relay-ip", "127.0.0.1"]);
    command.args(["--user", "alice:wonder", "--allow-peer", "127.0.0.0/8"]);
    let relay = Relay::spawn(command);
    let peer = udp_socket();
    for last in [1, 7, 8] {
        // A connected socket takes nothing from any other address.
        let mut client = Client::udp(SocketAddr::from(([127, 0, 0, last], relay.address.port())));
        let relayed = client.allocate();
        assert_eq!(client.bind(0x4000, peer.local_addr().unwrap()), None);
        peer.send_to(b"in", relayed).unwrap();
        assert_eq!(client.receive(), [0x40, 0, 0, 2, b'i', b'n']);
    }
}
