//! What a session, a join and a message cost the signaling server, in memory and in time.
//!
//! The server is alone on one core, the load on the other; Redis, where there is one, is with the load. Costs are CPU time
//! of the server process alone.

use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use farcall_proto::signaling::v1::client_frame::Body as Sent;
use farcall_proto::signaling::v1::join_response::Body;
use farcall_proto::signaling::v1::peer_message::Payload;
use farcall_proto::signaling::v1::signaling_service_client::SignalingServiceClient;
use farcall_proto::signaling::v1::{
    ClientFrame, JoinRequest, JoinResponse, PeerMessage, SendRequest, Welcome,
};
use farcall_tests::clock::{Deadline, now};
use farcall_tests::host::Host;
use farcall_tests::redis::Redis;
use farcall_tests::signaling::Signaling;
use farcall_tests::tools::Tool;
use farcall_tests::{Context, args};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::cpu;
use crate::figures::{Figures, Goal};

type Client = SignalingServiceClient<Channel>;

/// All rows, or those that are named, such as `signaling/memory-1000`.
pub(crate) fn run(ctx: &Context, figures: &mut Figures, rows: &[String]) -> Result<()> {
    let most = raise_file_limit()?;
    cpu::pin_load()?;
    let runtime = Runtime::new()?;
    let mut failed = Vec::new();
    let mut backplanes = vec![Backplane::Memory];
    if Tool::Redis.is_there() {
        backplanes.push(Backplane::Redis);
    } else {
        note("redis-server is not there: its rows are missing");
    }
    for (sessions, runs) in [(1_000, 5), (20_000, 3)] {
        for run in 0..runs {
            for &backplane in &backplanes {
                if !rows.is_empty() && !rows.contains(&format!("{}-{sessions}", backplane.name())) {
                    continue;
                }
                let own = sessions.min(most);
                for (sessions, connections) in [(sessions, sessions / 1_000), (own, own)] {
                    let case = Case { backplane, sessions, connections };
                    let name = case.name();
                    // Once is the machine's doing, perhaps; what hung twice is not waited for again.
                    if failed.iter().filter(|failed| **failed == name).count() == 2 {
                        continue;
                    }
                    let folder = ctx.folder().join(format!("{}-{run}", name.replace(' ', "-")));
                    let ctx = ctx.in_folder(folder);
                    if let Err(error) = case.measure(&ctx, &runtime.for_at_most(ROW), figures) {
                        note(&format!("{name}: {error:#}"));
                        failed.push(name);
                    }
                }
            }
        }
    }
    failed.sort();
    failed.dedup();
    ensure!(failed.is_empty(), "not every run came to its end: {}", failed.join(", "));
    Ok(())
}

/// What the load runs on: this one core.
struct Runtime(tokio::runtime::Runtime);

impl Runtime {
    fn new() -> Result<Self> {
        Ok(Self(tokio::runtime::Builder::new_current_thread().enable_all().build()?))
    }

    fn for_at_most(&self, time: Duration) -> Row<'_> {
        Row { runtime: self, time, until: Deadline::after(time) }
    }
}

/// The same for one row alone, which has a time to be over.
struct Row<'a> {
    runtime: &'a Runtime,
    time: Duration,
    until: Deadline,
}

impl Row<'_> {
    fn block_on<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Self { runtime: Runtime(runtime), time, until } = self;
        // Made within the runtime, whose timer it uses.
        runtime
            .block_on(async { timeout(until.left(), work).await })
            .unwrap_or_else(|_| bail!("it took longer than {time:?}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backplane {
    Memory,
    Redis,
}

impl Backplane {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Redis => "redis",
        }
    }
}

/// So many sessions over so many connections.
#[derive(Debug, Clone, Copy)]
struct Case {
    backplane: Backplane,
    sessions: usize,
    connections: usize,
}

impl Case {
    fn name(&self) -> String {
        let Self { backplane, sessions, connections } = self;
        format!("{} {sessions} sessions over {connections}", backplane.name())
    }

    fn measure(&self, ctx: &Context, row: &Row<'_>, figures: &mut Figures) -> Result<()> {
        let redis = match self.backplane {
            Backplane::Memory => None,
            Backplane::Redis => Some(Redis::start(ctx, &Host::local())?),
        };
        let backplane = redis.as_ref().map_or_else(|| "memory".to_owned(), Redis::url);
        let room = self.sessions + 1_000;
        let flags = args![
            "--backplane",
            backplane,
            "--max-connections",
            room.to_string(),
            "--max-sessions",
            room.to_string(),
            // So that nothing but what is measured happens.
            "--heartbeat-interval",
            "1h",
            "--frames-per-second-per-session",
            "0",
            "--bytes-per-second-per-session",
            "0",
        ];
        let server = Signaling::start(ctx, &cpu::server_host(), &flags)?;
        let server = Server { id: server.process.id(), url: server.url(), _running: server };
        let name = self.name();
        let mut add = |what: &str, unit, sample, goal: Option<Goal>| {
            let what = format!("{name}: {what}");
            match goal {
                Some(goal) => figures.add_towards(goal, &what, unit, sample),
                None => figures.add(&what, unit, sample),
            }
        };

        let before = server.resident()?;
        let (mut channels, mut idle) = (Vec::new(), Vec::new());
        let (mut wall, mut cpu) = (Duration::ZERO, Duration::ZERO);
        // Not all connections at once: the server closes those that ask for nothing.
        while channels.len() < self.connections {
            let more = OPEN_AT_ONCE.min(self.connections - channels.len());
            let fresh = row.block_on(connect(&server.url, more))?;
            let (used, started) = (server.cpu_time()?, now());
            let share = self.sessions * more / self.connections;
            idle.extend(row.block_on(join_all(&fresh, idle.len(), share))?);
            wall += started.elapsed();
            cpu += server.cpu_time()?.saturating_sub(used);
            channels.extend(fresh);
        }
        ensure!(idle.len() == self.sessions, "{} sessions joined", idle.len());
        let count = self.sessions as f64;
        let resident = server.resident()?.saturating_sub(before) as f64 / count;
        let goal = if self.connections == self.sessions { OWN_CONNECTION } else { SHARED_CONNECTION };
        add("joins, by wall clock", "1/s", count / wall.as_secs_f64(), None);
        add("joins, per core", "1/s", count / cpu.as_secs_f64(), Some(JOINS));
        add("resident, a session", "B", resident, Some(goal));

        let lonely = row.block_on(exchange(&server, &channels, 1, UNLOADED))?;
        add("message alone, p50", "ms", lonely.percentile(50), Some(DELIVERY));
        add("message alone, p99", "ms", lonely.percentile(99), None);
        let loaded = row.block_on(exchange(&server, &channels, PAIRS, LOADED))?;
        let count = loaded.latencies.len() as f64;
        add("message of 50 pairs, CPU", "µs", loaded.cpu.as_secs_f64() * 1e6 / count, None);
        add("messages of 50 pairs", "1/s", count / loaded.wall.as_secs_f64(), None);
        add("message of 50 pairs, p50", "ms", loaded.percentile(50), None);
        add("message of 50 pairs, p99", "ms", loaded.percentile(99), None);
        drop(idle);
        Ok(())
    }
}

struct Server {
    id: u32,
    url: String,
    _running: Signaling,
}

impl Server {
    fn cpu_time(&self) -> Result<Duration> {
        cpu::time_of(self.id)
    }

    /// Bytes of it that are in memory.
    fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib = line.trim().strip_suffix(" kB").context("VmRSS is not in kB")?;
        Ok(kib.parse::<u64>()? * 1024)
    }
}

/// Opens connections, a few at a time.
async fn connect(url: &str, count: usize) -> Result<Vec<Channel>> {
    let mut channels = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    for _ in 0..count {
        if opening.len() == AT_ONCE {
            channels.push(opening.join_next().await.context("nothing opens")???);
        }
        let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
        opening.spawn(async move { anyhow::Ok(endpoint.connect().await?) });
    }
    while let Some(channel) = opening.join_next().await {
        channels.push(channel??);
    }
    Ok(channels)
}

/// Lets sessions join, two in a room, spread over the connections. Some have joined before.
async fn join_all(channels: &[Channel], before: usize, count: usize) -> Result<Vec<Participant>> {
    let mut idle = Vec::with_capacity(count);
    let mut joining = JoinSet::new();
    for (number, channel) in (before..before + count).zip(channels.iter().cycle()) {
        if joining.len() == AT_ONCE {
            idle.push(joining.join_next().await.context("nobody joins")???);
        }
        joining.spawn(Participant::join(channel.clone(), format!("room-{}", number / 2)));
    }
    while let Some(joined) = joining.join_next().await {
        idle.push(joined??);
    }
    Ok(idle)
}

/// Somebody in a room.
struct Participant {
    client: Client,
    welcome: Welcome,
    stream: Streaming<JoinResponse>,
}

impl Participant {
    async fn join(channel: Channel, room: String) -> Result<Self> {
        let mut client = Client::new(channel);
        let request = JoinRequest { room, ..JoinRequest::default() };
        let mut stream = client.join(request).await?.into_inner();
        let first = stream.message().await?.and_then(|frame| frame.body);
        let Some(Body::Welcome(welcome)) = first else { bail!("{first:?} instead of a welcome") };
        Ok(Self { client, welcome, stream })
    }

    async fn send(&mut self, frames: Vec<ClientFrame>, ack: u64) -> Result<()> {
        let (session_id, resume_secret) =
            (self.welcome.session_id.clone(), self.welcome.resume_secret.clone());
        self.client.send(SendRequest { session_id, resume_secret, frames, ack }).await?;
        Ok(())
    }

    /// Waits for the next message, and returns its place.
    async fn hear(&mut self) -> Result<u64> {
        loop {
            let frame = self.stream.message().await?.context("the stream ended")?;
            if let Some(Body::Message(_)) = frame.body {
                return Ok(frame.seq);
            }
        }
    }
}

struct Exchange {
    latencies: Vec<Duration>,
    wall: Duration,
    cpu: Duration,
}

impl Exchange {
    /// In milliseconds.
    fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let place = sorted.len().saturating_sub(1) * percent / 100;
        sorted.get(place).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// Pairs that talk at once, each message when the one before it has arrived: from the call of `Send` to the frame.
async fn exchange(server: &Server, channels: &[Channel], pairs: usize, messages: usize) -> Result<Exchange> {
    let mut channels = channels.iter().cycle().cloned();
    let mut waiting = VecDeque::new();
    for pair in 0..pairs {
        let mut join = async || {
            let channel = channels.next().context("no connection")?;
            Participant::join(channel, format!("pair-{pairs}-{pair}")).await
        };
        waiting.push_back((join().await?, join().await?));
    }
    let (cpu, started) = (server.cpu_time()?, now());
    let mut talks = JoinSet::new();
    for (mut alice, mut bob) in waiting {
        talks.spawn(async move {
            let mut latencies = Vec::with_capacity(messages);
            let mut heard = 0;
            for number in 1..=messages as u64 {
                let sent_at = now();
                let frame = ClientFrame { client_seq: number, body: Some(Sent::Message(candidate())) };
                let (sent, arrived) = tokio::join!(alice.send(vec![frame], 0), bob.hear());
                sent?;
                heard = arrived?.max(heard);
                latencies.push(sent_at.elapsed());
                if number % ACK_EVERY == 0 {
                    bob.send(Vec::new(), heard).await?;
                }
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::with_capacity(pairs * messages);
    while let Some(talk) = talks.join_next().await {
        latencies.extend(talk??);
    }
    ensure!(latencies.len() == pairs * messages, "messages are missing");
    Ok(Exchange { latencies, wall: started.elapsed(), cpu: server.cpu_time()? - cpu })
}

/// As long as most messages of a call are.
fn candidate() -> PeerMessage {
    let text = "candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 10.0.0.17 rport 46154";
    PeerMessage { payload: Some(Payload::Text(text.into())), ..PeerMessage::default() }
}

/// Each connection is a file, here and there; what this process may, its children may. Returns how many connections
/// there can be.
fn raise_file_limit() -> Result<usize> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: Some(FILES), maximum: maximum.max(Some(FILES)) };
    // Only root may raise the upper limit.
    if setrlimit(Resource::Nofile, wanted).is_err() {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
            .context("raising the limit of open files")?;
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(FILES);
    Ok(usize::try_from(limit)?.saturating_sub(OTHER_FILES))
}

#[expect(clippy::print_stdout, reason = "a program speaks to its user")]
fn note(text: &str) {
    println!("{text}");
}

/// A run of a row takes seconds, of 20 000 connections on a busy machine minutes.
const ROW: Duration = Duration::from_secs(300);
/// Enough for 20 000 connections.
const FILES: u64 = 25_000;
const OTHER_FILES: usize = 200;
/// Joins and connections under way.
const AT_ONCE: usize = 64;
/// Connections that are opened before sessions join over them: so few that a busy machine too lets all of them ask for
/// something before the server closes them.
const OPEN_AT_ONCE: usize = 200;
const PAIRS: usize = 50;
/// Messages of each pair.
const UNLOADED: usize = 500;
const LOADED: usize = 200;
/// What the service is meant to come to, or better.
const JOINS: Goal = Goal::AtLeast(10_000.0);
const DELIVERY: Goal = Goal::AtMost(0.5);
const SHARED_CONNECTION: Goal = Goal::AtMost(4_096.0);
const OWN_CONNECTION: Goal = Goal::AtMost(16_384.0);
/// As a client does that has nothing to say.
const ACK_EVERY: u64 = 8;

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn a_row_that_hangs_ends_and_says_so() {
        let runtime = Runtime::new().unwrap();
        let row = runtime.for_at_most(Duration::from_millis(20));
        let hung = row.block_on(pending::<Result<()>>()).unwrap_err();
        assert_eq!(hung.to_string(), "it took longer than 20ms");
        // The next one has a time of its own.
        let row = runtime.for_at_most(ROW);
        assert_eq!(row.block_on(ready(Ok(7))).unwrap(), 7);
    }
}
