//! Both ends back to back, over a network that loses, doubles and reorders.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::crypto::rust_crypto;
use dimpl::{Config, Dtls, DtlsCertificate, Output};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::clock;

/// A client, a server, and what is between them.
struct World {
    rng: ChaCha20Rng,
    now: Instant,
    /// Of a hundred datagrams.
    lost: u32,
    client: Dtls,
    is_client_open: bool,
    client_wakes_at: Option<Instant>,
    front: Front,
    config: SessionConfig,
    certificate: DtlsCertificate,
    session: Option<Session>,
    end: Option<SessionEnd>,
    to_server: Vec<Vec<u8>>,
    to_client: Vec<Vec<u8>>,
    heard_by_server: Vec<Vec<u8>>,
    heard_by_client: Vec<Vec<u8>>,
}

impl World {
    fn new(seed: u64, lost: u32) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let now = clock::now();
        let config = Config::builder().with_crypto_provider(rust_crypto::default_provider()).build().unwrap();
        let mut client = Dtls::new_12(Arc::new(config), a_certificate(), now);
        client.set_active(true);
        let front = Front::new(CookieKey::new(&mut rng, now));
        Self {
            rng,
            now,
            lost,
            client,
            is_client_open: false,
            client_wakes_at: Some(now),
            front,
            config: SessionConfig::new().unwrap(),
            certificate: a_certificate(),
            session: None,
            end: None,
            to_server: Vec::new(),
            to_client: Vec::new(),
            heard_by_server: Vec::new(),
            heard_by_client: Vec::new(),
        }
    }

    /// Lets everything happen that is due, then moves to whatever is due next.
    fn step(&mut self) {
        self.client.handle_timeout(self.now).unwrap();
        self.hear_client();
        for datagram in self.carry_to_server() {
            self.serve(&datagram);
        }
        for datagram in self.carry_to_client() {
            self.client.handle_packet(&datagram).unwrap();
            self.hear_client();
        }
        if self.to_server.is_empty() && self.to_client.is_empty() {
            let session = self.session.as_ref().and_then(Session::poll_timeout);
            let next = session.into_iter().chain(self.client_wakes_at).min();
            self.now = next.unwrap_or(self.now).clamp(self.now, self.now + Duration::from_millis(500));
            self.now += Duration::from_millis(1);
            let Self { session, heard_by_server, to_client, now, end, .. } = self;
            if let Some(open) = session {
                let mut sink = sink(heard_by_server, to_client);
                *end = open.handle_timeout(*now, &mut [0; 20_000], &mut sink).err().or(*end);
            }
        }
    }

    fn serve(&mut self, datagram: &[u8]) {
        let (client, server) = addresses();
        match self.front.inspect(self.now, client, server, datagram) {
            Verdict::Challenge(request) => return self.to_client.push(request.to_vec()),
            Verdict::Refuse(_) => panic!("refused"),
            Verdict::Admit { random, cookie } if self.session.is_none() => {
                let begun = Session::begin(&self.config, &self.certificate, self.now, random, cookie);
                self.session = Some(begun.unwrap());
            }
            Verdict::Admit { random, .. } => {
                assert!(self.session.as_ref().is_some_and(|session| session.began_with(&random)));
            }
            Verdict::NoHello => {}
        }
        let Self { session, heard_by_server, to_client, now, end, .. } = self;
        if let Some(session) = session {
            let mut sink = sink(heard_by_server, to_client);
            *end = session.handle_datagram(*now, datagram, &mut [0; 20_000], &mut sink).err().or(*end);
        }
    }

    fn say_to_client(&mut self, message: &[u8]) {
        let Self { session, heard_by_server, to_client, .. } = self;
        let mut sink = sink(heard_by_server, to_client);
        session.as_mut().unwrap().send(message, &mut [0; 20_000], &mut sink).unwrap();
    }

    fn say_to_server(&mut self, message: &[u8]) {
        self.client.send_application_data(message).unwrap();
        self.hear_client();
    }

    fn hear_client(&mut self) {
        let mut buffer = [0; 20_000];
        loop {
            match self.client.poll_output(&mut buffer) {
                Output::Packet(datagram) => self.to_server.push(datagram.to_vec()),
                Output::ApplicationData(data) => self.heard_by_client.push(data.to_vec()),
                Output::Connected => self.is_client_open = true,
                Output::Timeout(at) => {
                    self.client_wakes_at = (!self.is_client_open).then_some(at);
                    return;
                }
                Output::BufferTooSmall { .. } => panic!("a record longer than any"),
                Output::PeerCert(_) | Output::KeyingMaterial(..) | Output::CloseNotify | _ => {}
            }
        }
    }

    fn carry_to_server(&mut self) -> Vec<Vec<u8>> {
        let datagrams = std::mem::take(&mut self.to_server);
        self.carry(datagrams)
    }

    fn carry_to_client(&mut self) -> Vec<Vec<u8>> {
        let datagrams = std::mem::take(&mut self.to_client);
        self.carry(datagrams)
    }

    fn carry(&mut self, datagrams: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut carried = Vec::new();
        for datagram in datagrams {
            if self.rng.random_range(0..100) < self.lost {
                continue;
            }
            for _ in 0..=u32::from(self.rng.random_range(0..100) < self.lost / 2) {
                let at = carried.len() - self.rng.random_range(0..=carried.len().min(2));
                carried.insert(at, datagram.clone());
            }
        }
        carried
    }

    fn is_open(&self) -> bool {
        self.is_client_open && self.session.as_ref().is_some_and(Session::is_open)
    }
}

fn sink<'a>(heard: &'a mut Vec<Vec<u8>>, sent: &'a mut Vec<Vec<u8>>) -> impl FnMut(Outcome<'_>) + 'a {
    |outcome| match outcome {
        Outcome::Transmit(datagram) => sent.push(datagram.to_vec()),
        Outcome::Data(data) => heard.push(data.to_vec()),
    }
}

fn addresses() -> (SocketAddr, SocketAddr) {
    (([192, 0, 2, 1], 1000).into(), ([198, 51, 100, 1], 5349).into())
}

fn a_certificate() -> DtlsCertificate {
    let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
    certificate(made.cert.der().to_vec(), made.signing_key.serialize_der()).unwrap()
}

#[test]
fn a_client_that_returns_its_cookie_is_served() {
    let mut world = World::new(1, 0);
    for _ in 0..20 {
        world.step();
    }
    assert!(world.is_open());
    world.say_to_server(b"request");
    world.step();
    world.say_to_client(b"response");
    world.step();
    assert_eq!(world.heard_by_server, [b"request"]);
    assert_eq!(world.heard_by_client, [b"response"]);
    world.client.close().unwrap();
    world.step();
    assert_eq!(world.end, Some(SessionEnd::Closed));
}

#[test]
fn a_handshake_survives_loss_doubling_and_reordering() {
    let mut open = 0;
    for seed in 0..20 {
        let mut world = World::new(seed, 20);
        for _ in 0..200 {
            world.step();
            if world.is_open() || world.end.is_some() {
                break;
            }
        }
        open += u32::from(world.is_open());
        if !world.is_open() {
            continue;
        }
        // What arrives afterwards is what was said, each message once.
        for number in 0..50_u8 {
            world.say_to_server(&[number; 100]);
            world.say_to_client(&[number; 100]);
            if number % 5 == 0 {
                world.step();
            }
        }
        world.step();
        for heard in [&world.heard_by_server, &world.heard_by_client] {
            let mut numbers: Vec<_> = heard.iter().map(|message| message[0]).collect();
            assert!(heard.iter().all(|message| *message == [message[0]; 100]), "seed {seed}");
            numbers.sort_unstable();
            let count = numbers.len();
            numbers.dedup();
            assert!(count == numbers.len() && count > 20, "seed {seed}: {count}");
        }
    }
    assert!(open >= 18, "{open} of 20 handshakes");
}

#[test]
fn noise_ends_nothing_and_is_no_message() {
    let mut world = World::new(3, 0);
    for _ in 0..20 {
        world.step();
    }
    let mut noise = [0; 200];
    for _ in 0..500 {
        world.rng.fill_bytes(&mut noise);
        let header = [world.rng.random_range(20..26), 254, 253, 0, world.rng.random_range(0..2)];
        noise[..5].copy_from_slice(&header);
        let length = world.rng.random_range(0..noise.len());
        noise[11..13].copy_from_slice(&u16::try_from(length.saturating_sub(13)).unwrap().to_be_bytes());
        world.serve(&noise[..length]);
        assert_eq!(world.end, None, "{:?}", &noise[..length]);
    }
    world.to_client.clear();
    world.say_to_server(b"still here");
    world.step();
    assert_eq!(world.heard_by_server, [b"still here"]);
}

#[test]
fn a_client_that_falls_silent_is_given_up() {
    let mut world = World::new(4, 0);
    while world.session.is_none() {
        world.step();
    }
    world.lost = 100;
    let begun = world.now;
    while world.end.is_none() {
        world.step();
        assert!(world.now < begun + Duration::from_secs(60), "kept for ever");
    }
    assert_eq!(world.end, Some(SessionEnd::Failed));
}

#[test]
fn only_what_dtls_can_sign_with_is_a_certificate() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert!(certificate(vec![1], key.serialize_der()).is_none());
    assert!(certificate(vec![1], vec![1, 2, 3]).is_none());
}
