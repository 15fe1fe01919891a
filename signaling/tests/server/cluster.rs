//! Several nodes on one Redis: any of them serves any session, and none is missed for long.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farcall_proto::signaling::v1::join_response::Body;
use farcall_proto::signaling::v1::peer_message::Payload;
use farcall_proto::signaling::v1::{
    ClientFrame, JoinRequest, LeaveReason, ParticipantState, ResumeResult, ResumeToken, SendRequest, Welcome,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::harness::{Client, Server, reason, request, run, soon, text_frame};
use crate::redis_server::RedisServer;

#[tokio::test]
async fn participants_on_different_nodes_meet() {
    let redis = RedisServer::start();
    let nodes = [node(&redis, &[]).await, node(&redis, &[]).await];
    let mut ada = nodes[0].join("red").await;
    let mut bob = nodes[1].join("red").await;
    assert_eq!(bob.welcome.others[0].session_id, ada.id());
    assert_eq!(ada.next_event().await.participant.unwrap().session_id, bob.id());
    bob.text("hello").await;
    assert_eq!(ada.next_text().await, "hello");
    ada.text("hi").await;
    assert_eq!(bob.next_text().await, "hi");
    // And the third is refused, wherever it comes.
    let refused = nodes[0].client().await.join(request("red")).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::ResourceExhausted, "ROOM_FULL".into()));
}

#[tokio::test]
async fn a_session_moves_to_another_node_and_its_old_stream_ends() {
    let redis = RedisServer::start();
    let nodes = [node(&redis, &[]).await, node(&redis, &[]).await];
    let mut ada = nodes[0].join("red").await;
    let mut bob = nodes[1].join("red").await;
    for text in ["1", "2", "3"] {
        bob.text(text).await;
    }
    let again = crate::harness::Participant::join(nodes[1].client().await, ada.resumption(2)).await;
    let mut again = again.unwrap();
    assert_eq!(again.welcome.resume_result(), ResumeResult::Resumed);
    assert_eq!((again.next_text().await, again.next_text().await), ("2".into(), "3".into()));
    let superseded = loop {
        match ada.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&superseded), (Code::Aborted, "SESSION_SUPERSEDED".into()));
}

/// 10 000 messages between five pairs, while nodes are killed and others started in their place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_killed_and_nothing_is_lost_doubled_or_reordered() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("SEED={seed} repeats this schedule");
    let mut chance = StdRng::seed_from_u64(seed);
    let redis = RedisServer::start();
    let nodes = vec![node(&redis, &[]).await, node(&redis, &[]).await];
    let (heard, mut progress) = watch::channel(0);
    let world = Arc::new(World { addresses: Mutex::new(addresses(&nodes)), heard });

    let mut talks = tokio::task::JoinSet::new();
    for pair in 0..PAIRS {
        for _ in 0..2 {
            let world = world.clone();
            let chance = StdRng::seed_from_u64(chance.random());
            talks.spawn(async move { world.talk(format!("room-{pair}"), chance).await });
        }
    }
    let mut nodes = nodes;
    for kill in 1..=KILLS {
        let all = PAIRS * 2 * MESSAGES;
        let at = all / (KILLS + 1) * kill + chance.random_range(0..all / (KILLS + 1));
        patiently("messages", progress.wait_for(|heard| *heard >= at)).await.unwrap();
        // The older one: nobody may have come to the younger one yet.
        let victim = kill % nodes.len();
        nodes[victim].signal("KILL").await;
        nodes[victim].ended().await;
        nodes[victim] = node(&redis, &[]).await;
        *world.addresses.lock().unwrap() = addresses(&nodes);
    }
    let mut resumed = 0;
    while let Some(talk) = patiently("the end of a talk", talks.join_next()).await {
        resumed += talk.unwrap();
    }
    assert_eq!(*world.heard.borrow(), PAIRS * 2 * MESSAGES);
    assert!(resumed >= KILLS, "only {resumed} sessions were resumed: the kills met nobody");
}

/// Thousands of calls, on a machine with better things to do.
async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(120), future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

const PAIRS: usize = 5;
const MESSAGES: usize = 1000;
const KILLS: usize = 8;

struct World {
    addresses: Mutex<Vec<SocketAddr>>,
    /// Messages that applications have processed.
    heard: watch::Sender<usize>,
}

/// What an application knows of its session.
#[derive(Default)]
struct Session {
    welcome: Option<Welcome>,
    received: u64,
    taken: u64,
    heard: usize,
    /// Whether there is somebody to talk to.
    met: bool,
    resumed: usize,
}

impl World {
    /// Says all messages to the other and hears all of its; returns how often it resumed.
    async fn talk(&self, room: String, mut chance: StdRng) -> usize {
        let mut session = Session::default();
        let request_id = format!("{:032x}", chance.random::<u128>());
        while session.heard < MESSAGES || session.taken < MESSAGES as u64 {
            let address = {
                let addresses = self.addresses.lock().unwrap();
                addresses[chance.random_range(0..addresses.len())]
            };
            let Ok(client) = Client::connect(format!("http://{address}")).await else { continue };
            let resume = session.welcome.as_ref().map(|welcome| ResumeToken {
                session_id: welcome.session_id.clone(),
                resume_secret: welcome.resume_secret.clone(),
                last_received_seq: session.received,
            });
            let join = JoinRequest { request_id: request_id.clone(), resume, ..request(&room) };
            if let Err(status) = self.stream(client, join, &mut session, &mut chance).await {
                let tell = status.get_details_error_info().map(|info| info.reason);
                assert_eq!(tell, None, "a node said that this session cannot go on: {status:?}");
            }
        }
        session.resumed
    }

    /// One stream, until it has done its work or breaks.
    async fn stream(
        &self,
        mut client: Client,
        join: JoinRequest,
        session: &mut Session,
        chance: &mut StdRng,
    ) -> Result<(), Status> {
        let mut stream = client.join(join).await?.into_inner();
        let first = stream.message().await?.expect("a welcome");
        let Some(Body::Welcome(welcome)) = first.body else { panic!("{first:?}") };
        if let Some(known) = &session.welcome {
            assert_eq!(welcome.resume_result(), ResumeResult::Resumed);
            assert_eq!(known.session_id, welcome.session_id);
            session.resumed += 1;
        }
        assert!(welcome.next_seq <= session.received + 1, "frames were skipped");
        assert!(welcome.last_client_seq >= session.taken, "frames that were taken are not there");
        session.taken = welcome.last_client_seq;
        session.met |= !welcome.others.is_empty();
        session.welcome = Some(welcome.clone());
        let mut next = welcome.next_seq;
        while session.heard < MESSAGES || session.taken < MESSAGES as u64 {
            let frames = match session.taken {
                taken if session.met && taken < MESSAGES as u64 => {
                    let last = (taken + chance.random_range(1..8)).min(MESSAGES as u64);
                    (taken + 1..=last).map(|number| text_frame(number, &number.to_string())).collect()
                }
                _ => Vec::new(),
            };
            let waiting = frames.is_empty();
            let send = self.send(client.clone(), &welcome, frames, session.received);
            let taken = async {
                let taken = send.await?;
                // With nothing to say it waits to hear.
                if waiting { std::future::pending().await } else { Ok::<u64, Status>(taken) }
            };
            let mut taken = std::pin::pin!(taken);
            loop {
                tokio::select! {
                    taken = &mut taken => {
                        session.taken = session.taken.max(taken?);
                        break;
                    }
                    frame = stream.message() => {
                        let Some(frame) = frame? else { return Ok(()) };
                        if frame.seq == 0 {
                            continue;
                        }
                        assert_eq!(frame.seq, next, "a log has a hole");
                        next += 1;
                        if frame.seq > session.received {
                            session.received = frame.seq;
                            self.hear(frame.body, session);
                        }
                        if waiting {
                            break;
                        }
                    }
                }
            }
        }
        // What was heard last is acknowledged too, so that nobody waits for a full log.
        self.send(client, &welcome, Vec::new(), session.received).await.map(drop)
    }

    fn hear(&self, body: Option<Body>, session: &mut Session) {
        match body {
            Some(Body::Participant(_)) => session.met = true,
            Some(Body::Message(message)) => {
                session.met = true;
                session.heard += 1;
                let Some(Payload::Text(text)) = message.payload else { panic!("{message:?}") };
                assert_eq!(text, session.heard.to_string());
                self.heard.send_modify(|heard| *heard += 1);
            }
            other => panic!("{other:?}"),
        }
    }

    async fn send(
        &self,
        mut client: Client,
        welcome: &Welcome,
        frames: Vec<ClientFrame>,
        ack: u64,
    ) -> Result<u64, Status> {
        let (session_id, resume_secret) = (welcome.session_id.clone(), welcome.resume_secret.clone());
        match client.send(SendRequest { session_id, resume_secret, frames, ack }).await {
            Ok(sent) => Ok(sent.into_inner().last_client_seq),
            // The other is behind: try again once something else has happened.
            Err(status) if status.code() == Code::ResourceExhausted => {
                tokio::task::yield_now().await;
                Ok(0)
            }
            Err(status) => Err(status),
        }
    }
}

#[tokio::test]
async fn a_killed_nodes_sessions_are_seen_to_reconnect_and_then_to_be_gone() {
    let flags = ["--heartbeat-interval", "500ms", "--presence-grace", "300ms", "--resume-window", "1s"];
    let redis = RedisServer::start();
    let doomed = node(&redis, &flags).await;
    let other = node(&redis, &flags).await;
    let ada = doomed.join("red").await;
    let mut bob = other.join("red").await;
    doomed.signal("KILL").await;
    let mut states = BTreeMap::new();
    while !states.contains_key(&ParticipantState::Left) {
        // Bob's heartbeats, which nobody but this test sends.
        bob.call(Vec::new(), 0).await.unwrap();
        let frame = timeout(Duration::from_millis(200), bob.next()).await;
        if let Ok(Some(Body::Participant(event))) = frame.map(|frame| frame.body) {
            assert_eq!(event.participant.as_ref().unwrap().session_id, ada.id());
            states.insert(event.participant.as_ref().unwrap().state(), event.reason());
        }
    }
    assert!(states.contains_key(&ParticipantState::Reconnecting), "{states:?}");
    assert_eq!(states[&ParticipantState::Left], LeaveReason::LeaseExpired);
}

#[tokio::test]
async fn without_redis_calls_are_refused_with_a_delay_and_health_says_so_until_it_is_back() {
    let mut redis = RedisServer::start();
    let server = node(&redis, &[]).await;
    let mut ada = server.join("red").await;
    let mut health = Health::of(&server).await;
    health.becomes(ServingStatus::Serving).await;

    redis.kill();
    health.becomes(ServingStatus::NotServing).await;
    let unavailable = (Code::Unavailable, "BACKPLANE_UNAVAILABLE".to_owned());
    for refused in [
        ada.call(vec![text_frame(1, "hello")], 0).await.unwrap_err(),
        server.client().await.join(request("red")).await.unwrap_err(),
    ] {
        assert_eq!(reason(&refused), unavailable);
        assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
    }

    redis.start_again();
    health.becomes(ServingStatus::Serving).await;
    // This Redis remembers nothing: whoever had a session is told.
    assert_eq!(reason(&ada.end().await.unwrap_err()), (Code::NotFound, "SESSION_NOT_FOUND".into()));
    let again = ada.resume(0).await;
    assert_eq!(again.welcome.resume_result(), ResumeResult::ResyncRequired);
}

#[tokio::test]
async fn a_redis_that_remembers_comes_back_and_no_stream_has_noticed() {
    let mut redis = RedisServer::that_remembers();
    let server = node(&redis, &[]).await;
    let (mut ada, mut bob) = (server.join("red").await, server.join("red").await);
    ada.next_event().await;
    let mut health = Health::of(&server).await;
    redis.kill();
    health.becomes(ServingStatus::NotServing).await;
    redis.start_again();
    health.becomes(ServingStatus::Serving).await;
    bob.text("still here?").await;
    assert_eq!(ada.next_text().await, "still here?");
}

#[tokio::test]
async fn a_node_that_finds_no_redis_says_so_and_serves_once_it_comes() {
    let mut redis = RedisServer::start();
    redis.kill();
    let server = node(&redis, &[]).await;
    let mut health = Health::of(&server).await;
    health.becomes(ServingStatus::NotServing).await;
    let refused = server.client().await.join(request("red")).await.unwrap_err();
    assert_eq!(reason(&refused), (Code::Unavailable, "BACKPLANE_UNAVAILABLE".into()));
    redis.start_again();
    health.becomes(ServingStatus::Serving).await;
    server.join("red").await;
}

#[tokio::test]
async fn a_backplane_that_is_none_is_bad_configuration() {
    let (code, said) = run(&["--backplane", "redis://:sesame@host:port"]).await;
    assert_eq!(code, Some(64));
    assert!(said.starts_with("backplane: ") && !said.contains("sesame"), "{said}");
}

async fn node(redis: &RedisServer, flags: &[&str]) -> Server {
    Server::start(&[&["--backplane", &redis.url()], flags].concat()).await
}

fn addresses(nodes: &[Server]) -> Vec<SocketAddr> {
    nodes.iter().map(Server::address).collect()
}

/// What a server says of itself as it changes.
struct Health(tonic::Streaming<tonic_health::pb::HealthCheckResponse>);

impl Health {
    async fn of(server: &Server) -> Self {
        let watch = HealthCheckRequest { service: "farcall.signaling.v1.SignalingService".into() };
        Self(HealthClient::new(server.channel().await).watch(watch).await.unwrap().into_inner())
    }

    async fn becomes(&mut self, wanted: ServingStatus) {
        while soon("a change of health", self.0.message()).await.unwrap().unwrap().status() != wanted {}
    }
}

#[tokio::test]
async fn a_redis_over_tls_wants_a_certificate_and_a_user() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (file("ca.pem"), file("own.pem"), file("own.key"));
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    std::fs::write(&ca, authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let own_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    // One that is called like its authority passes for self-signed.
    params.distinguished_name.push(DnType::CommonName, "store and nodes");
    let signed = params.signed_by(&own_key, &issuer).unwrap();
    std::fs::write(&cert, signed.pem()).unwrap();
    std::fs::write(&key, own_key.serialize_pem()).unwrap();
    // Redis takes no port 0 for TLS, so this one was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let flags =
        ["--tls-port", &port, "--tls-ca-cert-file", &ca, "--tls-cert-file", &cert, "--tls-key-file", &key];
    let flags = flags.into_iter().chain(["--bind", "127.0.0.1", "--user", "default", "off", "--user"]);
    // Only the keys and channels that the README names.
    let access = "farcall on >north ~farcall1:* &farcall:bell:* +@all -@admin -@dangerous";
    let flags = flags.chain(access.split(' ')).map(str::to_owned);
    let _redis = RedisServer::start_with(flags.collect());
    let own = ["--backplane-ca", &ca, "--backplane-cert", &cert, "--backplane-key", &key];
    let at = |user: &str| format!("rediss://{user}@localhost:{port}");
    let good = at("farcall:north");
    let nodes = [
        Server::start(&[&["--backplane", &good][..], &own].concat()).await,
        Server::start(&[&["--backplane", &good][..], &own].concat()).await,
    ];
    let (mut ada, mut bob) = (nodes[0].join("red").await, nodes[1].join("red").await);
    ada.next_event().await;
    bob.text("hello").await;
    assert_eq!(ada.next_text().await, "hello");

    // Another password, no certificate of one's own, and the machine's authorities, which did not sign this one.
    let wrong = at("farcall:south");
    for flags in [
        [&["--backplane", &wrong][..], &own].concat(),
        vec!["--backplane", &good, "--backplane-ca", &ca],
        [&["--backplane", &good], &own[2..]].concat(),
    ] {
        let server = Server::start(&flags).await;
        Health::of(&server).await.becomes(ServingStatus::NotServing).await;
        let refused = server.client().await.join(request("red")).await.unwrap_err();
        assert_eq!(reason(&refused), (Code::Unavailable, "BACKPLANE_UNAVAILABLE".into()));
        assert!(!format!("{refused:?}").contains("south"));
    }
    let (code, said) =
        run(&["--backplane", &good, "--backplane-ca", &key, "--backplane-cert", &cert, "check"]).await;
    assert_eq!(code, Some(64), "{said}");
    let (code, said) = run(&["--backplane", "memory", "--backplane-ca", &ca, "check"]).await;
    assert!(code == Some(64) && said.contains("backplane-ca"), "{said}");
}
