//! RFC 8489, section 9.2.

use super::*;
use crate::stun::password_algorithm::PASSWORD_ALGORITHMS;
use crate::stun::{ErrorCode, Integrity, IntegrityKey, MessageWriter, PasswordAlgorithm};

#[test]
fn a_request_without_credentials_is_challenged_briefly() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let request = unsigned(Class::Request, Method::ALLOCATE, TransactionId([1; 12]), &udp());
    world.deliver(client.flow, &request);
    let answer = world.answer();
    assert_eq!(answer.code.unwrap().number(), 401);
    assert_eq!(answer.message().find_text(AttributeType::REALM), Some(REALM));
    assert_eq!(answer.message().find(AttributeType::PASSWORD_ALGORITHMS), Some(&PASSWORD_ALGORITHMS[..]));
    // This world takes access tokens, for a server named like the realm.
    let realm = REALM.len().next_multiple_of(4);
    assert_eq!(answer.bytes.len(), 80 + realm + 4 + realm, "README.md says so");

    let nonce = answer.message().find(AttributeType::NONCE).unwrap().to_vec();
    let client = Client { nonce, ..client };
    assert_eq!(world.code(&client, Method::ALLOCATE, udp()), None, "the challenge's nonce is good");
}

#[test]
fn a_stale_nonce_is_a_438_with_a_new_one() {
    let mut world = World::new();
    let client = world.allocated();
    world.advance(NONCE_LIFETIME - SECOND);
    assert_eq!(world.code(&client, Method::REFRESH, vec![]), None);
    world.advance(SECOND);
    let answer = world.ask(&client, Method::REFRESH, vec![]);
    assert_eq!(answer.code.unwrap().number(), 438);
    let nonce = answer.message().find(AttributeType::NONCE).unwrap().to_vec();
    assert_eq!(world.code(&Client { nonce, ..client }, Method::REFRESH, vec![]), None);
}

#[test]
fn answers_to_known_clients_are_signed_and_challenges_are_not() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let key = client.key();
    assert!(world.ask(&client, Method::ALLOCATE, udp()).message().verify_integrity(&key));
    assert!(world.ask(&client, Method::ALLOCATE, udp()).message().verify_integrity(&key), "a 437, too");
    let wrong = Client { password: "guess".into(), ..client };
    assert!(!world.ask(&wrong, Method::REFRESH, vec![]).message().has_integrity());
}

#[test]
fn answers_carry_the_integrity_of_the_request() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let key = IntegrityKey::long_term_sha256(&client.username, REALM, &client.password);
    let mut ask = |method, attributes: &Attributes| {
        let mut bytes = Vec::new();
        let id = world.transaction_id();
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, id);
        for (kind, value) in attributes {
            writer.attribute(*kind, value);
        }
        writer
            .attribute(AttributeType::USERNAME, client.username.as_bytes())
            .attribute(AttributeType::REALM, REALM.as_bytes())
            .attribute(AttributeType::NONCE, &client.nonce)
            .attribute(AttributeType::PASSWORD_ALGORITHM, &PasswordAlgorithm::Sha256.to_value())
            .attribute(AttributeType::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS)
            .sign(Integrity::Sha256, &key)
            .finish()
            .unwrap();
        world.deliver(client.flow, &bytes);
        let answer = world.answer();
        assert!(answer.message().verify_integrity_sha256(&key) && !answer.message().has_integrity());
        answer.code.map(ErrorCode::number)
    };
    assert_eq!(ask(Method::ALLOCATE, &udp()), None);
    assert_eq!(ask(Method::ALLOCATE, &udp()), Some(437));
    assert_eq!(ask(Method::REFRESH, &vec![lifetime(0)]), None);
    // The same user may go on with the other algorithm, which has another key.
    assert_eq!(ask(Method::ALLOCATE, &udp()), None);
    assert_eq!(world.code(&client, Method::REFRESH, vec![]), None);
}

#[test]
fn known_clients_are_told_why_in_words_and_strangers_are_not() {
    let mut world = World::new();
    let client = world.allocated();
    let reason = |answer: &Answer| {
        let value = answer.message().find(AttributeType::ERROR_CODE).unwrap().to_vec();
        String::from_utf8(value[4..].to_vec()).unwrap()
    };
    let again = world.ask(&client, Method::ALLOCATE, udp());
    assert_eq!(reason(&again), "5-tuple and allocation do not match");
    let wrong = Client { password: "guess".into(), ..client };
    assert_eq!(reason(&world.ask(&wrong, Method::REFRESH, vec![])), "");
}

#[test]
fn another_user_on_an_allocation_is_a_441() {
    let mut world = World::new();
    let client = world.allocated();
    let bob = Client { username: "bob".into(), ..client };
    let peer = world.peer(PEER);
    assert_eq!(world.code(&bob, Method::CREATE_PERMISSION, vec![peer]), Some(441));
    assert_eq!(world.code(&bob, Method::REFRESH, vec![lifetime(0)]), Some(441));
    assert_eq!(world.server.allocation_count(), 1);
}

#[test]
fn an_expired_credential_makes_no_allocation_and_keeps_one() {
    let mut world = World::new();
    let made = AuthSecret::new("north").unwrap().mint(UnixTime(UNIX_START + 60), "session");
    let client = world.client_as(CLIENT, &made.username, &made.password);
    let late = world.client_as("192.0.2.7:4001", &made.username, &made.password);
    assert_eq!(world.code(&client, Method::ALLOCATE, udp()), None);
    world.advance(60 * SECOND);
    assert_eq!(world.code(&late, Method::ALLOCATE, udp()), Some(401));
    assert_eq!(world.code(&client, Method::REFRESH, vec![]), None);
    world.permit(&client, PEER);
}

#[test]
fn integrity_without_a_nonce_is_a_400() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let mut bytes = Vec::new();
    MessageWriter::new(&mut bytes, Class::Request, Method::ALLOCATE, TransactionId([1; 12]))
        .attribute(AttributeType::USERNAME, b"alice")
        .integrity(&client.key())
        .finish()
        .unwrap();
    world.deliver(client.flow, &bytes);
    assert_eq!(world.answer().code.unwrap().number(), 400);
}

#[test]
fn of_unknown_attributes_only_a_known_client_is_told() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let attributes = udp_and(AttributeType(0x7f00), &[]);
    assert_eq!(world.code(&client, Method::ALLOCATE, attributes.clone()), Some(420));
    let stranger = Client { username: "eve".into(), ..client };
    assert_eq!(world.code(&stranger, Method::ALLOCATE, attributes), Some(401));
}
