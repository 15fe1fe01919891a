//! Bounds that hold however many ask at once, and names that are more than names.

use farcall_proto::turn_credentials::AuthSecret;
use farcall_relay::stun::{AttributeType, Class, Message, Method};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::assert_silent;
use crate::support::{Attributes, Client, Relay, udp};

#[test]
fn of_many_allocates_at_once_exactly_the_quota_succeeds() {
    let relay = Relay::start_with(&["--user-quota", "20"]);
    let mut clients: Vec<_> = (0..70).map(|_| Client::udp(relay.address)).collect();
    // Everybody has a nonce before anybody asks, so that the requests meet in both workers.
    let requests: Vec<_> =
        clients.iter_mut().map(|client| client.prepare(Method::ALLOCATE, &udp())).collect();
    for _ in 0..3 {
        clients.iter_mut().zip(&requests).for_each(|(client, request)| client.transmit(request));
    }
    let mut succeeded = 0;
    for client in &mut clients {
        let answers = [(); 3].map(|()| client.receive());
        let codes = answers.each_ref().map(|bytes| {
            let message = Message::parse(bytes).unwrap();
            (message.class(), message.find(AttributeType::ERROR_CODE).map(<[u8]>::to_vec))
        });
        assert!(codes.iter().all(|code| *code == codes[0]), "retransmissions are answered alike");
        match codes[0].0 {
            Class::Success => succeeded += 1,
            Class::Error => assert_eq!(codes[0].1.as_ref().unwrap()[2..4], [4, 86]),
            Class::Request | Class::Indication => panic!("no answer"),
        }
    }
    assert_eq!((succeeded, relay.metric("allocations")), (20, 20));
}

#[test]
fn names_are_data_and_nothing_else() {
    let relay = Relay::start_with(&["--user", "%n%s%x:secret", "--log", "trace"]);
    for name in ["%n%s%n%s%x%p", "' OR 1=1 --", "{}{:?}", "a\nb", "../../etc/passwd", &"x".repeat(508)] {
        let code = Client::udp(relay.address).with_user(name, "guess").ask(Method::ALLOCATE, &udp()).code();
        assert_eq!(code, Some(401), "{name}");
    }
    Client::udp(relay.address).with_user("%n%s%x", "secret").allocate();
}

#[test]
fn the_metrics_page_has_one_size_whoever_connects() {
    let relay = Relay::start_with(&["--unauthenticated-rate", "0"]);
    let shape = |page: String| {
        page.lines()
            .filter_map(|line| line.rsplit_once(' ').map(|(name, _)| name.to_owned()))
            .collect::<Vec<_>>()
    };
    let before = shape(relay.get("/metrics"));
    for number in 0..300 {
        let stranger = format!("stranger-{number}");
        let code =
            Client::udp(relay.address).with_user(&stranger, "guess").ask(Method::ALLOCATE, &udp()).code();
        assert_eq!(code, Some(401));
    }
    let expires = farcall_relay::clock::unix_time().after(std::time::Duration::from_secs(60));
    for number in 0..100 {
        let minted = AuthSecret::new("north").unwrap().mint(expires, &format!("session-{number}"));
        Client::udp(relay.address).with_user(&minted.username, &minted.password).allocate();
    }
    let mut client = Client::udp(relay.address);
    for number in 0..0x400 {
        let message = client.plain(Class::Indication, Method::new(number).unwrap(), &vec![]);
        client.transmit(&message);
    }
    client.allocate();
    assert_eq!(shape(relay.get("/metrics"))[1..], before[1..]);
}

#[test]
fn padding_is_zero_in_ten_thousand_random_replies() {
    let relay = Relay::start_with(&["--unauthenticated-rate", "0", "--alternate-listen", "127.0.0.2:0"]);
    let mut client = Client::udp(relay.address);
    client.allocate();
    let mut rng = ChaCha20Rng::seed_from_u64(4067);
    let methods =
        [Method::BINDING, Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND];
    let kinds =
        [0x000c, 0x000d, 0x0012, 0x0017, 0x0018, 0x0019, 0x0022, 0x0026, 0x7fff, 0x8000, 0x8022, 0x8030];
    let mut padded = 0;
    for _ in 0..10_000 {
        let method = methods[rng.next_u32() as usize % methods.len()];
        let attributes: Attributes = (0..rng.next_u32() % 3)
            .map(|_| {
                let mut value = vec![0; rng.next_u32() as usize % 9];
                rng.fill_bytes(&mut value);
                (AttributeType(kinds[rng.next_u32() as usize % kinds.len()]), value)
            })
            .collect();
        let answer = match rng.next_u32() % 3 {
            0 => client.ask_plainly(method, &attributes),
            _ => client.ask(method, &attributes),
        };
        padded += assert_padding_is_zero(&answer.bytes);
    }
    assert!(padded > 1000, "only {padded} attributes had any");
}

/// Reads a message by hand. Says how many attributes were padded.
fn assert_padding_is_zero(bytes: &[u8]) -> usize {
    let (mut at, mut padded) = (20, 0);
    while at < bytes.len() {
        let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        let (end, next) = (at + 4 + length, at + 4 + length.next_multiple_of(4));
        assert!(bytes[end..next].iter().all(|byte| *byte == 0), "{bytes:02x?}");
        padded += usize::from(end != next);
        at = next;
    }
    padded
}

#[test]
fn answers_to_strangers_are_hardly_longer_than_their_questions() {
    let relay = Relay::start();
    let mut client = Client::udp(relay.address);
    assert_eq!(client.ask_plainly(Method::BINDING, &vec![]).bytes.len(), 32);
    for method in [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND] {
        let answer = client.ask_plainly(method, &vec![]);
        assert_eq!(answer.code(), Some(401));
        assert!(answer.bytes.len() <= 120, "{} bytes", answer.bytes.len());
    }
    let unknown = (0..40).map(|kind| (AttributeType(0x7000 + kind), vec![])).collect();
    let request = client.plain(Class::Request, Method::BINDING, &unknown);
    client.transmit(&request);
    let answer = client.receive();
    assert!(answer.len() <= 60, "{} bytes", answer.len());
    assert_silent(&mut client, "anything else");
}
