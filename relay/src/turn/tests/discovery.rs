//! RFC 5780.

use std::net::SocketAddr;

use super::*;
use crate::stun::address::parse_plain;

const ALTERNATE: &str = "198.51.100.2:3479";

fn world(rate: Option<u32>) -> World {
    let pair = AddressPair { primary: SERVER.parse().unwrap(), alternate: ALTERNATE.parse().unwrap() };
    World::with_rate(|config| config.discovery = Discovery::new(vec![pair]), rate)
}

fn ask_at(world: &mut World, server: &str, transport: Transport, attributes: &Attributes) -> Answer {
    let mut flow = world.client(CLIENT).flow;
    flow.server = server.parse().unwrap();
    flow.transport = transport;
    let id = world.transaction_id();
    world.deliver(flow, &unsigned(Class::Request, Method::BINDING, id, attributes));
    world.answer()
}

fn ask(world: &mut World, attributes: &Attributes) -> Answer {
    ask_at(world, SERVER, Transport::Udp, attributes)
}

fn change(flags: u8) -> (AttributeType, Vec<u8>) {
    (AttributeType::CHANGE_REQUEST, vec![0, 0, 0, flags])
}

fn to_port(port: u16) -> (AttributeType, Vec<u8>) {
    let [high, low] = port.to_be_bytes();
    (AttributeType::RESPONSE_PORT, vec![high, low, 0, 0])
}

fn padding(length: usize) -> (AttributeType, Vec<u8>) {
    (AttributeType::PADDING, vec![7; length])
}

fn plain(answer: &Answer, kind: AttributeType) -> Option<SocketAddr> {
    answer.message().find(kind).and_then(parse_plain)
}

#[test]
fn each_of_four_addresses_answers_from_whichever_is_asked_for() {
    let (ip, port) = (["198.51.100.1", "198.51.100.2"], [3478, 3479]);
    let mut world = world(None);
    for (at_ip, at_port, flags) in
        (0..2).flat_map(|ip| (0..2).flat_map(move |port| (0..4).map(move |flags| (ip, port, flags << 1))))
    {
        let address = |ip_change: usize, port_change: usize| {
            format!("{}:{}", ip[(at_ip + ip_change) % 2], port[(at_port + port_change) % 2])
        };
        let answer = ask_at(&mut world, &address(0, 0), Transport::Udp, &vec![change(flags)]);
        let origin = address(usize::from(flags & 4 != 0), usize::from(flags & 2 != 0));
        assert_eq!(answer.flow.server.to_string(), origin, "asked {} with {flags}", address(0, 0));
        assert_eq!(answer.flow.client.to_string(), CLIENT);
        assert_eq!(plain(&answer, AttributeType::RESPONSE_ORIGIN).unwrap().to_string(), origin);
        assert_eq!(plain(&answer, AttributeType::OTHER_ADDRESS).unwrap().to_string(), address(1, 1));
        assert_eq!(plain(&answer, AttributeType::MAPPED_ADDRESS).unwrap().to_string(), CLIENT);
    }
}

#[test]
fn an_answer_goes_to_another_port_but_never_to_another_ip() {
    let mut world = world(None);
    let answer = ask(&mut world, &vec![to_port(9)]);
    assert_eq!(answer.flow.client.to_string(), "192.0.2.7:9");
    let mapped = answer.message().find_xor_address(AttributeType::XOR_MAPPED_ADDRESS);
    assert_eq!(mapped, Some(CLIENT.parse().unwrap()), "who asked, not where the answer goes");
}

#[test]
fn no_answer_is_longer_than_its_request_or_a_bound() {
    let mut world = world(None);
    for length in 0..1500 {
        let id = world.transaction_id();
        let request = unsigned(Class::Request, Method::BINDING, id, &vec![padding(length)]);
        let flow = world.client(CLIENT).flow;
        world.deliver(flow, &request);
        let answer = world.answer();
        assert!(answer.bytes.len() <= request.len().max(72), "{length}: {}", answer.bytes.len());
        let padding = answer.message().find(AttributeType::PADDING).unwrap();
        assert!(padding.iter().all(|byte| *byte == 0));
        if length > 60 {
            assert_eq!(answer.bytes.len(), request.len());
        }
    }
}

#[test]
fn what_makes_no_sense_is_a_400() {
    let mut world = world(None);
    for attributes in [
        vec![to_port(9), padding(8)],
        vec![to_port(0)],
        vec![(AttributeType::RESPONSE_PORT, vec![0, 9])],
        vec![(AttributeType::CHANGE_REQUEST, vec![6])],
    ] {
        assert_eq!(ask(&mut world, &attributes).code.unwrap().number(), 400, "{attributes:?}");
    }
    for attribute in [change(2), change(4), to_port(9)] {
        let answer = ask_at(&mut world, SERVER, Transport::Tcp, &vec![attribute]);
        assert_eq!((answer.code.unwrap().number(), answer.flow.server), (400, SERVER.parse().unwrap()));
    }
    assert_eq!(ask_at(&mut world, SERVER, Transport::Tcp, &vec![change(0)]).code, None);
}

#[test]
fn without_another_address_the_attributes_are_unknown() {
    let mut world = World::new();
    for attribute in [change(0), to_port(9), padding(8)] {
        assert_eq!(ask(&mut world, &vec![attribute]).code.unwrap().number(), 420);
    }
    let mut world = self::world(None);
    let answer = ask(&mut world, &vec![(AttributeType(0x7f00), vec![]), change(2)]);
    assert_eq!(answer.message().find(AttributeType::UNKNOWN_ATTRIBUTES), Some(&[0x7f, 0x00][..]));
    let elsewhere = ask_at(&mut world, "[2001:db8::1]:3478", Transport::Udp, &vec![change(2)]);
    assert_eq!(elsewhere.code.unwrap().number(), 420, "no alternate of that family");
}

#[test]
fn past_the_budget_a_bare_question_gets_a_bare_answer_and_more_gets_none() {
    let mut world = world(Some(2));
    assert_eq!(ask(&mut world, &vec![]).bytes.len(), 68);
    assert_eq!(ask(&mut world, &vec![]).bytes.len(), 32);
    let flow = world.client(CLIENT).flow;
    for attribute in [change(6), to_port(9), padding(1000), (AttributeType(0x7f00), vec![])] {
        let id = world.transaction_id();
        world.deliver(flow, &unsigned(Class::Request, Method::BINDING, id, &vec![attribute]));
        assert!(world.is_silent());
    }
    assert_eq!(ask_at(&mut world, SERVER, Transport::Tcp, &vec![]).bytes.len(), 68, "a handshake proves");
}
