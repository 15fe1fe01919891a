//! Every kind of translator against every other, in the lab: who meets whom, by which path, and who saw it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::clock::{self, Deadline, PATIENCE};
use crate::host::Host;
use crate::lab::internet::Server;
use crate::lab::nat::Outbound;
use crate::lab::probe::{StunServer, Verdict, probe};
use crate::lab::{Internet, Nat, Router, rights};
use crate::peer::{Call, Peer};
use crate::relay::{self, Relay};
use crate::report::matrix::{Matrix, Meeting};
use crate::signaling::Signaling;
use crate::{Context, Evidence, args};

/// What lies between a peer and the internet.
const KINDS: [(&str, Option<Nat>); 7] = [
    ("public", None),
    ("fullcone", Some(Nat::FULL_CONE)),
    ("restricted", Some(Nat::RESTRICTED)),
    ("portrestricted", Some(Nat::PORT_RESTRICTED)),
    ("symmetric", Some(Nat::SYMMETRIC)),
    ("linux", Some(Nat::LINUX)),
    ("udpblocked", Some(Nat::UDP_BLOCKED)),
];
/// Cells at once.
const JOBS: usize = 4;
/// What one side sends the other over its data channel once both are settled.
const LINES: usize = 40;
const LINE: usize = 900;

/// Every kind against every kind, both ways round.
pub(super) fn matrix(ctx: &Context) -> Result<Evidence> {
    rights::check()?;
    let scene = Scene::build(ctx)?;
    let cells = (0..KINDS.len()).flat_map(|row| (0..KINDS.len()).map(move |column| (row, column)));
    let cells = cells.collect::<Vec<_>>();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some(&cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = scene.meet(ctx, cell);
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(cell, result);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let names = KINDS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut table = Matrix { names, ..Matrix::default() };
    let mut wrong = Vec::new();
    for ((row, column), result) in results {
        let [Some((one, nat)), Some((other, other_nat))] = [KINDS.get(row), KINDS.get(column)] else {
            continue;
        };
        let expected = if Nat::meet_directly(*nat, *other_nat) { Path::Direct } else { Path::Relayed };
        match result {
            Ok(met) if met.path == expected || is_luck(*nat, *other_nat) => {
                let meeting = Meeting { direct: met.path == Path::Direct, ms: met.took.as_millis() };
                table.meetings.insert((row, column), meeting);
            }
            Ok(met) => wrong.push(format!("{one} and {other} met {} instead of {expected}", met.path)),
            Err(error) => wrong.push(format!("{one} and {other}: {error:#}")),
        }
    }
    let picture = ctx.folder().with_extension("svg");
    std::fs::write(&picture, table.svg()).with_context(|| format!("writing {}", picture.display()))?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(table.lines().into_iter().fold(Evidence::new(), Evidence::fact))
}

/// Where no UDP gets out and no relay is there to help, a stream does.
pub(super) fn without_udp(ctx: &Context) -> Result<Evidence> {
    rights::check()?;
    let mut internet = Internet::new()?;
    let server = internet.attach_host("server")?;
    let office = internet.attach_host("office")?;
    let mut router = internet.attach_router("home", Nat::UDP_BLOCKED, 1)?;
    let (home, _) = router.attach_host()?;
    let signaling = Signaling::start(ctx, &server, &[])?;
    let url = signaling.url();
    let call = |side: &str| Call::new(side).lasting(CALL);
    let alice = Peer::call(ctx, &office, &url, call("office"))?;
    alice.joined()?;
    let mut bob = Peer::call(ctx, &home, &url, call("home"))?;
    let connected = bob.connected()?;
    ensure!(connected.path.protocol == "tcp", "the path is {}", connected.path);
    for peer in [&alice, &bob] {
        peer.first_frame("video")?;
        peer.channel_open()?;
    }
    bob.say("over TCP")?;
    alice.hears("over TCP")?;
    let stats = bob.ends_well()?;
    let received = stats.video.context("no video stats")?.frames_received;
    ensure!(received > 30, "only {received} frames arrived");
    let seen = internet.witness()?;
    let udp = seen.carried("home", "office", "udp").packets;
    ensure!(udp == 0, "{udp} datagrams got out of a home without UDP");
    let bytes = seen.carried("home", "office", "tcp").bytes + seen.carried("office", "home", "tcp").bytes;
    Ok(Evidence::new().connected(&connected).fact(format!(
        "video, audio and text went over TCP: the internet saw {bytes} bytes of it, and no UDP"
    )))
}

/// Long enough for some pictures.
const CALL: Duration = Duration::from_secs(4);

/// Whether it depends on whose first packet is under way longer: between two routers that do nothing but masquerade,
/// the one that comes too early takes the port that the answer would have got.
fn is_luck(one: Option<Nat>, other: Option<Nat>) -> bool {
    one == Some(Nat::LINUX) && other == Some(Nat::LINUX)
}

/// How two peers reached each other, as the internet saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Direct,
    Relayed,
}

#[derive(Debug)]
struct Met {
    path: Path,
    took: Duration,
}

/// One internet with a home of each kind on either side, and the servers.
struct Scene {
    internet: Internet,
    sides: [Vec<Host>; 2],
    /// Without them the homes would be cut off.
    _routers: Vec<Router>,
    server: Server,
    signaling: Signaling,
    _relay: Relay,
}

impl Scene {
    fn build(ctx: &Context) -> Result<Self> {
        let mut internet = Internet::new()?;
        let server = internet.attach_server("server")?;
        let mut routers = Vec::new();
        let mut side = |letter: &str| {
            let hosts = KINDS.iter().zip(1..).map(|((_, nat), number)| {
                let name = format!("{letter}{number}");
                let Some(nat) = nat else { return internet.attach_host(&name) };
                let mut router = internet.attach_router(&name, *nat, number)?;
                let (host, _) = router.attach_host()?;
                routers.push(router);
                Ok(host)
            });
            hosts.collect::<Result<Vec<_>>>()
        };
        let sides = [side("l")?, side("r")?];
        let host = &server.host;
        let (listen, alternate) = (format!("{}:3478", server.first.v4), format!("{}:3479", server.second.v4));
        let extra = args![
            "--auth-secret",
            relay::SECRET,
            "--alternate-listen",
            alternate,
            "--unauthenticated-rate",
            "0"
        ];
        let relay = Relay::listen(ctx, host, &listen, &extra)?;
        let mut flags: Vec<OsString> =
            args!["--stun", format!("stun:{listen}"), "--turn-secret", relay::SECRET];
        flags.extend(args!["--turn", format!("turn:{listen}?transport=udp")]);
        flags.extend(args!["--turn", format!("turn:{listen}?transport=tcp")]);
        let signaling = Signaling::start(ctx, host, &flags)?;
        let scene = Self { internet, sides, _routers: routers, server, signaling, _relay: relay };
        scene.is_what_it_says()?;
        Ok(scene)
    }

    /// Fails if a home is not what its name says, before anything is proved across it.
    fn is_what_it_says(&self) -> Result<()> {
        let stun = StunServer {
            first: self.server.first.v4.into(),
            second: self.server.second.v4.into(),
            port: 3478,
            alternate_port: 3479,
        };
        for ((name, nat), host) in KINDS.iter().zip(&self.sides[0]).chain(KINDS.iter().zip(&self.sides[1])) {
            let found = probe(host, stun).with_context(|| format!("the lab's fault: probing {name}"))?;
            let expected = expected(*nat);
            ensure!(found == expected, "the lab's fault: {name} is not what it says, it has {found}");
        }
        Ok(())
    }

    fn meet(&self, ctx: &Context, (row, column): (usize, usize)) -> Result<Met> {
        let (left, right) = (self.sides[0].get(row), self.sides[1].get(column));
        let (left, right) = (left.context("no such row")?, right.context("no such column")?);
        let (kind, other_kind) = (KINDS.get(row), KINDS.get(column));
        let ((kind, nat), (other_kind, other_nat)) =
            (kind.context("no such row")?, other_kind.context("no such column")?);
        let (one, other) = (format!("l{}", row + 1), format!("r{}", column + 1));
        let room = format!("{kind}-{other_kind}");
        let call = |side: &str| Call::new(&format!("{room}-{side}")).in_room(&room).without_media();
        let url = self.signaling.url();
        let mut alice = Peer::call(ctx, left, &url, call("left"))?;
        alice.joined()?;
        let began = clock::now();
        let bob = Peer::call(ctx, right, &url, call("right"))?;
        bob.joined()?;
        alice.channel_open()?;
        bob.channel_open()?;
        let took = clock::now().duration_since(began);

        // What was first may be replaced by what is better: the last word counts.
        let direct_is_possible = Nat::meet_directly(*nat, *other_nat);
        let deadline = Deadline::after(if direct_is_possible { PATIENCE } else { Duration::ZERO });
        let mut round = 0;
        loop {
            round += 1;
            let before = self.internet.witness()?;
            for line in 0..LINES {
                alice.say(&format!("{round} {line} {}", "x".repeat(LINE)))?;
            }
            bob.hears(&format!("{round} {} {}", LINES - 1, "x".repeat(LINE)))?;
            let seen = self.internet.witness()?.since(&before);
            let sent = (LINES * LINE) as u64;
            let direct = seen.carried(&one, &other, "udp").bytes + seen.carried(&one, &other, "tcp").bytes;
            if direct >= sent {
                return Ok(Met { path: Path::Direct, took });
            }
            if deadline.passed() {
                let up =
                    seen.carried(&one, "server", "udp").bytes + seen.carried(&one, "server", "tcp").bytes;
                ensure!(up >= sent, "{sent} bytes went {direct} directly and {up} by the server");
                return Ok(Met { path: Path::Relayed, took });
            }
        }
    }
}

/// What a client finds out about a home.
pub(super) fn expected(nat: Option<Nat>) -> Verdict {
    match nat {
        None => Verdict::Open,
        Some(nat) if nat.outbound != Outbound::Everything => Verdict::NoUdp,
        Some(nat) => {
            let (mapping, filtering) = nat.behaviour();
            Verdict::Translated { mapping, filtering }
        }
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Direct => "directly",
            Self::Relayed => "through the relay",
        })
    }
}
