//! One node and two, on a server of their own.

use std::time::Duration;

use futures_util::FutureExt;
use redis::ConnectionLike;
use tokio::time::timeout;

use super::super::conformance::{self, LIMITS, Stage};
use super::redis_server::RedisServer;
use super::*;
use crate::room::{Outcome, Profile, Resume};

/// One node.
struct Alone {
    clock: Clock,
    backplane: Redis,
    server: RedisServer,
}

impl Stage for Alone {
    type Backplane = Redis;

    async fn new() -> Self {
        Self::on(RedisServer::start()).await
    }

    fn backplane(&self) -> &Redis {
        &self.backplane
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        sweep_all(&self.backplane).await;
    }
}

impl Alone {
    async fn on(server: RedisServer) -> Self {
        let clock = Clock::manual(Timestamp(1_000_000));
        let backplane = node(&server, &clock, Lines::ring).await;
        Self { clock, backplane, server }
    }

    async fn join(&self, resume: Option<&Joined>) -> Result<(Joined, Doorbell), Failure> {
        let resume = resume.map(|joined| Resume {
            session: joined.session.clone(),
            secret: joined.secret.as_bytes().to_vec().into(),
            last_received_seq: 0,
        });
        let profile = Profile { display_name: "Ada".into(), ..Profile::default() };
        self.backplane
            .join(Join { room: "red".into(), profile, request_id: None, resume, may_create: true })
            .await
    }

    async fn say(&self, joined: &Joined) -> Result<Sent, Failure> {
        let frame = Outgoing { client_seq: 1, to: None, message: "hello".into() };
        self.backplane.send(&joined.session, joined.secret.as_bytes(), vec![frame], 0).await
    }

    async fn read(&self, joined: &Joined) -> Result<Vec<Entry>, ReadFailure> {
        self.backplane.read(&joined.session, joined.epoch, 0, 10).await
    }

    /// Asks until the server answers.
    async fn reach(&self) {
        let reached = async {
            while self.backplane.sweep().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, reached).await.expect("it never came back");
    }

    /// Asks until the server does not answer any more.
    async fn lose(&self) {
        let lost = async {
            while self.backplane.sweep().await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, lost).await.expect("nobody noticed");
    }
}

mod alone {
    use super::*;

    conformance::suite!(Alone);
}

/// Two nodes that take turns, and a network between them and their bells that loses, repeats and delays them.
struct Cluster {
    clock: Clock,
    nodes: Arc<Nodes>,
    _sweeper: Owned,
    _server: RedisServer,
}

struct Nodes([Redis; 2], AtomicUsize);

impl Stage for Cluster {
    type Backplane = Nodes;

    async fn new() -> Self {
        let (server, clock) = (RedisServer::start(), Clock::manual(Timestamp(1_000_000)));
        let nodes = [node(&server, &clock, faulty()).await, node(&server, &clock, faulty()).await];
        let nodes = Arc::new(Nodes(nodes, AtomicUsize::new(0)));
        let sweeping = nodes.clone();
        let sweeper = tokio::spawn(async move {
            loop {
                sweeping.sweep().await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        Self { clock, nodes, _sweeper: Owned(sweeper), _server: server }
    }

    fn backplane(&self) -> &Nodes {
        &self.nodes
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        for node in &self.nodes.0 {
            sweep_all(node).await;
        }
    }
}

mod cluster {
    use super::*;

    conformance::suite!(Cluster);
}

impl Nodes {
    fn next(&self) -> &Redis {
        &self.0[self.1.fetch_add(1, Ordering::Relaxed) % 2]
    }
}

impl Backplane for Nodes {
    async fn join(&self, join: Join) -> Result<(Joined, Doorbell), Failure> {
        self.next().join(join).await
    }

    async fn send(
        &self,
        session: &SessionId,
        secret: &[u8],
        frames: Vec<Outgoing>,
        ack: u64,
    ) -> Result<Sent, Failure> {
        self.next().send(session, secret, frames, ack).await
    }

    async fn read(
        &self,
        session: &SessionId,
        epoch: u64,
        after: u64,
        max: usize,
    ) -> Result<Vec<Entry>, ReadFailure> {
        self.next().read(session, epoch, after, max).await
    }

    async fn leave(&self, session: &SessionId, secret: &[u8]) -> Result<(), Failure> {
        self.next().leave(session, secret).await
    }

    fn detach(&self, session: &SessionId, epoch: u64) {
        self.0.iter().for_each(|node| node.detach(session, epoch));
    }

    async fn sweep(&self) -> Result<(), Unavailable> {
        for node in &self.0 {
            node.sweep().await?;
        }
        Ok(())
    }

    async fn rooms(&self, after: Option<&RoomKey>, max: usize) -> Result<Vec<RoomSummary>, Unavailable> {
        self.next().rooms(after, max).await
    }

    async fn room(&self, room: &RoomKey) -> Result<Vec<SessionView>, Unavailable> {
        self.next().room(room).await
    }

    async fn remove(&self, session: &SessionId) -> Result<bool, Unavailable> {
        self.next().remove(session).await
    }

    async fn close(&self, room: &RoomKey) -> Result<usize, Unavailable> {
        self.next().close(room).await
    }

    async fn occupancy(&self) -> Result<Occupancy, Unavailable> {
        // What a node has not seen itself it knows from the round of sweeps before.
        for node in &self.0 {
            sweep_all(node).await;
        }
        self.next().occupancy().await
    }
}

/// Of seven bells two get lost, one comes twice, and one late.
fn faulty() -> impl Fn(&Arc<Lines>, &SessionId) + Send + Sync + 'static {
    let count = AtomicU64::new(0);
    move |lines, session| match count.fetch_add(1, Ordering::Relaxed) % 7 {
        0 | 4 => {}
        2 => (0..2).for_each(|_| lines.ring(session)),
        5 => {
            let (lines, session) = (lines.clone(), session.clone());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                lines.ring(&session);
            });
        }
        _ => lines.ring(session),
    }
}

#[tokio::test]
async fn a_server_that_lost_its_memory_leaves_nobody_waiting() {
    let mut stage = Alone::new().await;
    let (joined, doorbell) = stage.join(None).await.unwrap();
    stage.server.kill();
    stage.lose().await;
    assert!(matches!(stage.say(&joined).await, Err(Failure::Unavailable(_))));
    assert!(matches!(stage.read(&joined).await, Err(ReadFailure::Unavailable(_))));
    stage.server.start_again();
    stage.reach().await;
    timeout(PATIENCE, doorbell.rung()).await.expect("the stream was not told");
    assert!(matches!(stage.read(&joined).await, Err(ReadFailure::Ended(StreamEnd::Forgotten))));
    assert!(matches!(stage.say(&joined).await, Err(Failure::Refused(Refusal::SessionNotFound))));
    let (again, _) = stage.join(Some(&joined)).await.unwrap();
    assert_eq!(again.outcome, Outcome::Resync);
}

#[tokio::test]
async fn a_server_that_remembers_goes_on_where_it_was() {
    let mut stage = Alone::on(RedisServer::that_remembers()).await;
    let ((alice, _), (bob, doorbell)) = (stage.join(None).await.unwrap(), stage.join(None).await.unwrap());
    stage.server.kill();
    stage.lose().await;
    stage.server.start_again();
    stage.reach().await;
    stage.say(&alice).await.unwrap();
    timeout(PATIENCE, doorbell.rung()).await.expect("nobody rang");
    assert_eq!(stage.read(&bob).await.unwrap().len(), 1);
    assert_eq!(stage.join(Some(&bob)).await.unwrap().0.outcome, Outcome::Resumed);
}

#[tokio::test]
async fn a_server_that_is_away_at_first_is_found_when_it_comes() {
    let mut server = RedisServer::start();
    server.kill();
    let mut stage = Alone::on(server).await;
    let Err(Failure::Unavailable(Unavailable(why))) = stage.join(None).await else {
        panic!("joined nowhere")
    };
    assert!(why.to_string().contains("redis.sock"), "{why}");
    assert!(stage.backplane.occupancy().await.is_err());
    stage.server.start_again();
    stage.reach().await;
    stage.join(None).await.unwrap();
}

#[tokio::test]
async fn functions_that_are_gone_are_given_again() {
    let stage = Alone::new().await;
    let mut flush = redis::cmd("FUNCTION");
    connection(&stage.server).req_command(flush.arg("FLUSH")).unwrap();
    stage.join(None).await.unwrap();
}

#[tokio::test]
async fn everything_is_in_the_rooms_slot_and_runs_out_or_is_cleared_away() {
    let stage = Alone::new().await;
    let (alice, _) = stage.join(None).await.unwrap();
    stage.say(&alice).await.unwrap();
    let (bob, _) = stage.join(None).await.unwrap();
    stage.say(&bob).await.unwrap();
    let keys =
        || -> Vec<String> { redis::cmd("KEYS").arg("*").query(&mut connection(&stage.server)).unwrap() };
    let found = keys();
    assert_eq!(found.len(), 7, "two sessions, two logs, a frame for nobody, the room, its shard: {found:?}");
    let shard = Shard::of_room(&"red".into());
    for key in found {
        assert!(key.starts_with(&super::key(PREFIX, shard)), "{key}");
        let left: i64 = redis::cmd("PTTL").arg(&key).query(&mut connection(&stage.server)).unwrap();
        assert!(left > 0, "{key} never runs out");
    }
    for who in [alice, bob] {
        stage.backplane.detach(&who.session, who.epoch);
    }
    stage.pass(LIMITS.resume_window).await;
    stage.pass(LIMITS.resume_window).await;
    assert_eq!(keys(), [""; 0]);
}

#[tokio::test]
async fn a_join_that_nobody_waits_for_leaves_no_stream_behind() {
    let stage = Alone::new().await;
    // It is under way once it has been looked at, and given up in the next moment.
    assert!(stage.join(None).now_or_never().is_none());
    let gone = async {
        while stage.backplane.occupancy().await.unwrap().sessions == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it never arrived");
    // Only the window is left of it, not the lease.
    assert!(LIMITS.resume_window < LIMITS.lease);
    stage.pass(LIMITS.presence_grace).await;
    stage.pass(LIMITS.resume_window).await;
    assert_eq!(stage.backplane.occupancy().await.unwrap(), Occupancy::default());
}

#[tokio::test]
async fn the_whole_cluster_has_bounds() {
    let server = RedisServer::start();
    let bounds = Bounds { rooms: 2, sessions: 3 };
    let nodes = [
        Redis::start(address(&server), LIMITS, bounds).await,
        Redis::start(address(&server), LIMITS, bounds).await,
    ];
    let join = async |node: &Redis, room: &str| {
        for node in &nodes {
            sweep_all(node).await;
        }
        let join = Join {
            room: room.into(),
            profile: Profile::default(),
            request_id: None,
            resume: None,
            may_create: true,
        };
        node.join(join).await
    };
    for (node, room) in [(0, "red"), (1, "blue"), (0, "blue")] {
        join(&nodes[node], room).await.unwrap();
    }
    for (node, room) in [(0, "green"), (1, "red")] {
        let refused = join(&nodes[node], room).await.unwrap_err();
        assert!(matches!(refused, Failure::Refused(Refusal::ServerFull)), "{refused:?}");
    }
}

async fn node(
    server: &RedisServer,
    clock: &Clock,
    deliver: impl Fn(&Arc<Lines>, &SessionId) + Send + Sync + 'static,
) -> Redis {
    let bounds = Bounds { rooms: 100, sessions: 100 };
    Redis::with(address(server), LIMITS, bounds, Some(clock.clone()), deliver).await
}

async fn sweep_all(node: &Redis) {
    for _ in 0..SWEEPS_IN_A_ROUND {
        node.sweep().await.unwrap();
    }
}

fn address(server: &RedisServer) -> Address {
    Address::parse(&server.url()).unwrap()
}

pub(super) fn connection(server: &RedisServer) -> redis::Connection {
    redis::Client::open(format!("{}?protocol=resp3", server.url())).unwrap().get_connection().unwrap()
}

const PATIENCE: Duration = Duration::from_secs(20);
