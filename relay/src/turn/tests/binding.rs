//! RFC 8489, section 12, and RFC 3489.

use super::*;

#[test]
fn a_bare_binding_of_20_bytes_is_answered_with_32() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let id = world.transaction_id();
    world.deliver(client.flow, &unsigned(Class::Request, Method::BINDING, id, &vec![]));
    let answer = world.answer();
    assert_eq!(answer.bytes.len(), 32);
    let address = answer.message().find_xor_address(AttributeType::XOR_MAPPED_ADDRESS);
    assert_eq!((address, answer.message().transaction_id()), (Some(client.flow.client.0), id));
}

#[test]
fn a_fingerprint_is_answered_with_a_fingerprint() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let mut bytes = Vec::new();
    crate::stun::MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, TransactionId([1; 12]))
        .fingerprint()
        .finish()
        .unwrap();
    world.deliver(client.flow, &bytes);
    assert!(world.answer().message().has_fingerprint());
}

#[test]
fn an_unknown_comprehension_required_attribute_is_named_in_a_420() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let attributes = vec![(AttributeType(0x7f00), vec![1]), (AttributeType(0xff00), vec![1])];
    let id = world.transaction_id();
    world.deliver(client.flow, &unsigned(Class::Request, Method::BINDING, id, &attributes));
    let answer = world.answer();
    assert_eq!(answer.code.unwrap().number(), 420);
    assert_eq!(answer.message().find(AttributeType::UNKNOWN_ATTRIBUTES), Some(&[0x7f, 0x00][..]));
}

#[test]
fn classic_stun_is_answered_only_if_asked_for() {
    let mut request = vec![0, 1, 0, 0];
    request.extend_from_slice(&[9; 16]);
    let mut world = World::new();
    let flow = world.client(CLIENT).flow;
    world.deliver(flow, &request);
    assert!(world.is_silent());
    let mut world = World::with(|config| config.classic_stun = ClassicStun::Answered);
    world.deliver(flow, &request);
    assert!(matches!(&world.actions()[..], [Action::Respond { message, .. }] if message.len() == 32));
}
