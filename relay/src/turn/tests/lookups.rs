//! Requests of users whom somebody else must know.

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::auth::{
    self, Answer, Authenticator, LookUp, NonceKey, Profile, Proof, Query, RealmConfig, StaticUser,
};
use crate::policy::Limits;
use crate::webhook::WebhookConfig;

/// Knows alice itself, and asks about everybody else.
fn asking() -> World {
    let mut world = World::new();
    let url = "http://localhost/".into();
    let default_realm = RealmConfig {
        name: REALM.into(),
        users: vec![StaticUser { name: "alice".into(), password: "wonder".into() }],
        webhook: Some(WebhookConfig { url, token: None, authorities: None, timeout: SECOND }),
        ..RealmConfig::default()
    };
    let config = auth::Config { default_realm, ..auth::Config::default() };
    let nonces = NonceKey::new(&mut ChaCha20Rng::seed_from_u64(5), world.start);
    world.server.parts.authenticator = Authenticator::new(config, nonces);
    world
}

fn known(password: &str) -> Answer {
    let proof = Proof::Password(password.into());
    Answer::Known(Profile { proof, account: None, limits: Limits::default(), ttl: 60 * SECOND }.into())
}

/// Delivers a request and takes the question that comes of it.
fn question(world: &mut World, client: &Client, request: &[u8]) -> Query {
    world.deliver(client.flow, request);
    let actions = world.actions();
    let [Action::LookUp(LookUp { query, client: from, transport: "udp" })] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(*from, client.flow.client.0);
    query.clone()
}

fn tell(world: &mut World, query: &Query, answer: Answer) {
    let now = world.now();
    world.server.handle_looked_up(now, query, answer);
    world.act();
}

#[test]
fn a_request_waits_until_its_user_is_known_however_often_it_is_sent() {
    let mut world = asking();
    let carol = world.client_as(CLIENT, "carol", "secret");
    let request = world.request(&carol, Method::ALLOCATE, &udp());
    let query = question(&mut world, &carol, &request);
    assert_eq!((&*query.name, &*query.realm), ("carol", REALM));
    for _ in 0..3 {
        world.deliver(carol.flow, &request);
        assert!(world.is_silent());
    }
    tell(&mut world, &query, known("secret"));
    let first = world.answer();
    assert_eq!(first.code, None);
    assert!(first.message().verify_integrity(&carol.key()));
    world.deliver(carol.flow, &request);
    assert_eq!(world.answer().bytes, first.bytes, "a retransmission is answered alike");
    assert_eq!(world.server.allocation_count(), 1);
    assert_eq!(world.code(&carol, Method::REFRESH, vec![]), None, "and nobody is asked again");
}

#[test]
fn one_question_serves_all_who_wait_for_it() {
    let mut world = asking();
    let carols = ["192.0.2.7:1", "192.0.2.7:2"].map(|from| world.client_as(from, "carol", "secret"));
    let requests = [0, 1].map(|at| world.request(&carols[at], Method::ALLOCATE, &udp()));
    let query = question(&mut world, &carols[0], &requests[0]);
    world.deliver(carols[1].flow, &requests[1]);
    assert!(world.is_silent());
    tell(&mut world, &query, known("secret"));
    assert_eq!(world.actions().iter().filter(|action| matches!(action, Action::Respond { .. })).count(), 2);
    assert_eq!(world.server.allocation_count(), 2);
}

#[test]
fn an_unknown_user_is_a_401_and_nobody_is_asked_again_for_a_while() {
    let mut world = asking();
    let eve = world.client_as(CLIENT, "eve", "guess");
    let request = world.request(&eve, Method::ALLOCATE, &udp());
    let query = question(&mut world, &eve, &request);
    tell(&mut world, &query, Answer::Unknown);
    assert_eq!(world.answer().code.unwrap().number(), 401);
    assert_eq!(world.code(&eve, Method::ALLOCATE, udp()), Some(401));
    world.advance(10 * SECOND);
    let request = world.request(&eve, Method::ALLOCATE, &udp());
    question(&mut world, &eve, &request);
}

#[test]
fn a_wrong_password_is_a_401_and_no_reason_to_ask_again() {
    let mut world = asking();
    let carol = world.client_as(CLIENT, "carol", "guess");
    let request = world.request(&carol, Method::ALLOCATE, &udp());
    let query = question(&mut world, &carol, &request);
    tell(&mut world, &query, known("secret"));
    assert_eq!(world.answer().code.unwrap().number(), 401);
    let carol = Client { password: "secret".into(), ..carol };
    assert_eq!(world.code(&carol, Method::ALLOCATE, udp()), None);
}

#[test]
fn a_failed_question_is_a_500_and_the_next_request_asks_anew() {
    let mut world = asking();
    let carol = world.client_as(CLIENT, "carol", "secret");
    let request = world.request(&carol, Method::ALLOCATE, &udp());
    let query = question(&mut world, &carol, &request);
    tell(&mut world, &query, Answer::Failed);
    assert_eq!(world.answer().code.unwrap().number(), 500);
    world.advance(SECOND);
    let request = world.request(&carol, Method::ALLOCATE, &udp());
    question(&mut world, &carol, &request);
}

#[test]
fn nobody_is_asked_about_a_user_known_here_or_for_who_has_not_shown_where_it_is() {
    let mut world = asking();
    let wrong = world.client_as(CLIENT, "alice", "guess");
    assert_eq!(world.code(&wrong, Method::ALLOCATE, udp()), Some(401));
    let nowhere = Client { nonce: vec![b'x'; 32], ..world.client_as(CLIENT, "carol", "secret") };
    assert_eq!(world.code(&nowhere, Method::ALLOCATE, udp()), Some(438));
    let request = unsigned(Class::Request, Method::ALLOCATE, TransactionId([1; 12]), &udp());
    world.deliver(nowhere.flow, &request);
    assert_eq!(world.answer().code.unwrap().number(), 401);
}

#[test]
fn so_many_clients_wait_and_no_more() {
    let mut world = asking();
    for port in 1..=1100u16 {
        let client = world.client_as(&format!("192.0.2.7:{port}"), &format!("user{port}"), "x");
        let request = world.request(&client, Method::ALLOCATE, &udp());
        world.deliver(client.flow, &request);
    }
    assert_eq!(world.actions().len(), 1024);
    assert_eq!(world.counted("dropped_datagrams_total{reason=\"lookups_full\"}"), 1100 - 1024);
}

#[test]
fn a_stream_that_ended_meanwhile_is_not_answered() {
    let mut world = asking();
    let carol = world.client_as(CLIENT, "carol", "secret");
    let request = world.request(&carol, Method::ALLOCATE, &udp());
    let query = question(&mut world, &carol, &request);
    world.server.handle_flow_closed(carol.flow);
    tell(&mut world, &query, known("secret"));
    assert!(world.is_silent());
}

#[test]
fn a_request_that_waits_is_asked_about_again_after_an_upgrade() {
    let mut world = asking();
    let carol = world.client_as(CLIENT, "carol", "secret");
    let request = world.request(&carol, Method::ALLOCATE, &udp());
    question(&mut world, &carol, &request);
    world.upgrade();
    let [Action::LookUp(LookUp { query, .. })] = &world.actions()[..] else { panic!("no question") };
    tell(&mut world, query, known("secret"));
    assert_eq!(world.answer().code, None);
    world.server.forget(|_| true);
    assert_eq!(world.server.allocation_count(), 0);
}
