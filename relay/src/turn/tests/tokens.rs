//! RFC 7635: access tokens in place of passwords.

use super::*;
use crate::auth::AccessToken;
use crate::stun::{ErrorCode, IntegrityKey, MessageWriter};

const MAC_KEY: &[u8] = b"twenty bytes of key.";

fn token(world: &World, mac_key: &[u8], seconds: u64) -> Vec<u8> {
    let token = AccessToken::made_at(world.now().unix, Duration::from_secs(seconds), mac_key.to_vec());
    token.seal(&oauth_key(), REALM, [7; 12]).unwrap()
}

/// A request under this token, or without one under the key of the one before.
fn ask(
    world: &mut World,
    token: Option<&[u8]>,
    mac_key: &[u8],
    method: Method,
    attributes: &Attributes,
) -> Answer {
    let mut client = world.client(CLIENT);
    client.username = "kid".into();
    let (mut bytes, id) = (Vec::new(), world.transaction_id());
    let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, id);
    for (kind, value) in attributes {
        writer.attribute(*kind, value);
    }
    if let Some(token) = token {
        writer.attribute(AttributeType::ACCESS_TOKEN, token);
    }
    writer
        .attribute(AttributeType::USERNAME, b"kid")
        .attribute(AttributeType::REALM, REALM.as_bytes())
        .attribute(AttributeType::NONCE, &client.nonce)
        .integrity(&IntegrityKey::from_bytes(mac_key))
        .finish()
        .unwrap();
    world.deliver(client.flow, &bytes);
    world.answer()
}

fn granted(answer: &Answer) -> u32 {
    assert_eq!(answer.code, None);
    u32::from_be_bytes(answer.message().find(AttributeType::LIFETIME).unwrap().try_into().unwrap())
}

#[test]
fn a_challenge_names_the_server_that_tokens_are_for() {
    let mut world = World::new();
    let client = world.client(CLIENT);
    let request = unsigned(Class::Request, Method::ALLOCATE, TransactionId([1; 12]), &udp());
    world.deliver(client.flow, &request);
    let answer = world.answer();
    assert_eq!(answer.message().find_text(AttributeType::THIRD_PARTY_AUTHORIZATION), Some(REALM));
}

#[test]
fn a_token_allocates_and_its_key_signs_both_ways() {
    let mut world = World::new();
    let sealed = token(&world, MAC_KEY, 3600);
    let answer = ask(&mut world, Some(&sealed), MAC_KEY, Method::ALLOCATE, &udp());
    assert_eq!(granted(&answer), 600);
    assert!(answer.message().verify_integrity(&IntegrityKey::from_bytes(MAC_KEY)));
    let next = ask(&mut world, None, MAC_KEY, Method::REFRESH, &vec![]);
    assert_eq!(next.code, None, "the key goes on being good without its token");
}

#[test]
fn a_token_without_its_key_or_of_another_seal_is_a_401() {
    let mut world = World::new();
    let sealed = token(&world, MAC_KEY, 3600);
    let mut code = |token: &[u8], key: &[u8]| {
        ask(&mut world, Some(token), key, Method::ALLOCATE, &udp()).code.map(ErrorCode::number)
    };
    assert_eq!(code(&sealed, b"another"), Some(401));
    assert_eq!(code(&sealed[..sealed.len() - 1], MAC_KEY), Some(401));
    assert_eq!(code(&[], MAC_KEY), Some(401));
    assert_eq!(code(&sealed, MAC_KEY), None);
}

#[test]
fn an_allocation_lives_no_longer_than_its_token_and_another_token_goes_on() {
    let mut world = World::new();
    let first = token(&world, MAC_KEY, 100);
    let answer = ask(&mut world, Some(&first), MAC_KEY, Method::ALLOCATE, &udp());
    assert_eq!(granted(&answer), 100);
    world.advance(60 * SECOND);
    assert_eq!(granted(&ask(&mut world, None, MAC_KEY, Method::REFRESH, &vec![])), 40);
    let second = token(&world, b"the next key", 3600);
    let answer = ask(&mut world, Some(&second), b"the next key", Method::REFRESH, &vec![]);
    assert_eq!(granted(&answer), 600);
    world.advance(50 * SECOND);
    assert_eq!(world.server.allocation_count(), 1);
    let stale = ask(&mut world, Some(&first), MAC_KEY, Method::REFRESH, &vec![]);
    assert_eq!(stale.code.map(ErrorCode::number), Some(401), "the first one has ended");
}

#[test]
fn a_password_is_no_token_even_under_the_same_name() {
    let mut world = World::new();
    let sealed = token(&world, MAC_KEY, 3600);
    assert_eq!(ask(&mut world, Some(&sealed), MAC_KEY, Method::ALLOCATE, &udp()).code, None);
    let alice = world.client(CLIENT);
    assert_eq!(world.code(&alice, Method::REFRESH, vec![lifetime(0)]), Some(441));
}
