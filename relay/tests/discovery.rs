//! RFC 5780 over real sockets, where the answer comes from another address than was asked.

use std::net::{SocketAddr, UdpSocket};

use farcall_relay::stun::address::parse_plain;
use farcall_relay::stun::{AttributeType, Class, Message, MessageWriter, Method, TransactionId};

use crate::support::{Client, Relay, coturn_tool, udp_socket};

const FLAGS: &[&str] = &["--alternate-listen", "127.0.0.2:0"];

fn binding(number: u8, attributes: &[(AttributeType, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer =
        MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, TransactionId([number; 12]));
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    writer.finish().unwrap();
    bytes
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).expect("an answer in time");
    (buffer[..length].to_vec(), from)
}

#[test]
fn every_worker_answers_from_every_address() {
    let relay = Relay::start_with(FLAGS);
    let alternate = relay.alternate();
    assert_ne!((alternate.ip(), alternate.port()), (relay.address.ip(), relay.address.port()));
    let (one, other) = (relay.address, alternate);
    let all = [one, SocketAddr::new(one.ip(), other.port()), SocketAddr::new(other.ip(), one.port()), other];
    // Many ports, so that both workers are asked.
    for _ in 0..8 {
        let client = udp_socket();
        for (at, asked) in all.into_iter().enumerate() {
            for flags in [0, 2, 4, 6u8] {
                let request = binding(flags, &[(AttributeType::CHANGE_REQUEST, &[0, 0, 0, flags])]);
                client.send_to(&request, asked).unwrap();
                let (answer, from) = receive(&client);
                assert_eq!(from, all[at ^ usize::from(flags >> 1)], "asked {asked} with {flags}");
                let message = Message::parse(&answer).unwrap();
                let origin = message.find(AttributeType::RESPONSE_ORIGIN).and_then(parse_plain);
                let other = message.find(AttributeType::OTHER_ADDRESS).and_then(parse_plain);
                assert_eq!((origin, other), (Some(from), Some(all[at ^ 3])));
            }
        }
    }
}

#[test]
fn an_answer_comes_to_another_port_on_request() {
    let relay = Relay::start_with(FLAGS);
    let (asks, listens) = (udp_socket(), udp_socket());
    let [high, low] = listens.local_addr().unwrap().port().to_be_bytes();
    asks.send_to(&binding(1, &[(AttributeType::RESPONSE_PORT, &[high, low, 0, 0])]), relay.address).unwrap();
    let (answer, from) = receive(&listens);
    assert_eq!(from, relay.address);
    let mapped = Message::parse(&answer).unwrap().find_xor_address(AttributeType::XOR_MAPPED_ADDRESS);
    assert_eq!(mapped, Some(asks.local_addr().unwrap()));
}

#[test]
fn no_answer_is_much_longer_than_its_request() {
    let relay = Relay::start_with(FLAGS);
    let client = udp_socket();
    for (length, most) in [(0, 72), (100, 124), (1200, 1224)] {
        let request = binding(1, &[(AttributeType::PADDING, &vec![1; length])]);
        client.send_to(&request, relay.address).unwrap();
        assert_eq!(receive(&client).0.len(), most);
    }
    client.send_to(&binding(1, &[]), relay.address).unwrap();
    assert_eq!(receive(&client).0.len(), 68);
}

#[test]
fn streams_say_where_else_to_ask() {
    let relay = Relay::start_with(FLAGS);
    let answer = Client::tcp(relay.address).ask_plainly(Method::BINDING, &vec![]);
    let other = answer.message().find(AttributeType::OTHER_ADDRESS).and_then(parse_plain);
    assert_eq!(other, Some(relay.alternate()));
}

#[test]
fn natdiscovery_finds_no_nat() {
    let relay = Relay::start_with(FLAGS);
    let output = coturn_tool("turnutils_natdiscovery")
        .args(["-m", "-f", "-p", &relay.port(), "-L", "127.0.0.1", "127.0.0.1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    for line in ["NAT with Endpoint Independent Mapping!", "NAT with Endpoint Independent Filtering!"] {
        assert!(said.contains(line), "{line} in\n{said}");
    }
}

#[test]
fn stunclient_learns_the_other_address() {
    let relay = Relay::start_with(FLAGS);
    let output =
        coturn_tool("turnutils_stunclient").args(["-p", &relay.port(), "127.0.0.1"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("Other addr: : {}", relay.alternate())), "{said}");
    assert!(said.contains(&format!("Response origin: : {}", relay.address)), "{said}");
}
