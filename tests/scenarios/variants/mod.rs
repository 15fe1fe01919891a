//! What else lies between homes, beside the kinds of NAT of the matrix: carriers, hairpins, equal subnets, firewalls.
//!
//! Each case is a world of its own, so that the relay counts one call. The routers of both homes say by which way it
//! went: what left one, and came into the other, from and to the servers or past them.

mod ascent;
mod carriers;
mod families;
mod hairpin;
mod overlap;
mod ports;
mod symmetric;
mod timeouts;
mod tls;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::nat::{Path, expected};
use crate::clock::{self, Deadline, PATIENCE};
use crate::event::{Connected, EventKind};
use crate::host::Host;
use crate::lab::internet::{Addresses, Attachment, Family, Server};
use crate::lab::nat::{Dependence, Outbound};
use crate::lab::probe::{StunServer, Verdict, probe};
use crate::lab::router::Passages;
use crate::lab::{Internet, Nat, Router, rights};
use crate::peer::{Call, Peer};
use crate::relay::{self, Direction, Relay};
use crate::signaling::Signaling;
use crate::{Context, Evidence, args};

pub(super) use ascent::moves_up;
pub(super) use carriers::behind_carriers;
pub(super) use families::over_ipv6;
pub(super) use hairpin::by_the_outer_address;
pub(super) use overlap::equal_subnets;
pub(super) use ports::kept_and_not;
pub(super) use symmetric::with_media;
pub(super) use timeouts::forgetful;
pub(super) use tls::nothing_else;

/// A name, and what returns its evidence.
type Case = (&'static str, fn(&Context) -> Result<String>);

/// Puts all to the proof, several at once.
fn prove(ctx: &Context, cases: &[Case]) -> Result<Evidence> {
    rights::check()?;
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                let mut proofs = cases.iter().skip(next.fetch_add(1, Ordering::Relaxed));
                while let Some((name, case)) = proofs.next() {
                    let result = case(&ctx.in_folder(ctx.folder().join(name.replace([' ', ','], "-"))));
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(*name, result);
                    proofs = cases.iter().skip(next.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut evidence = Evidence::new();
    let mut wrong = Vec::new();
    for (name, _) in cases {
        match results.remove(name).context("a case without a result")? {
            Ok(said) => evidence = evidence.fact(format!("{name}: {said}")),
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(evidence)
}

/// An internet with a relay and signaling.
struct World {
    ctx: Context,
    internet: Internet,
    server: Server,
    relay: Relay,
    signaling: Signaling,
    servers: Servers,
}

/// What the servers speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Servers {
    /// UDP and TCP over IPv4.
    Plain,
    /// The same over IPv6, too.
    BothFamilies,
    /// TLS, too; signaling nothing else.
    Secure,
}

/// One end of a call.
struct Home {
    name: &'static str,
    host: Host,
    router: Router,
    /// Everything between the host and the internet, as one.
    nat: Nat,
    families: Families,
    cable: Attachment,
}

/// What the host of a home has addresses of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    V4,
    V6,
    Both,
}

/// A call that came about.
struct Met {
    one: Peer,
    other: Peer,
    connected: Connected,
    /// How long it took, from both being there to an open channel.
    took: Duration,
    /// What the routers and the relay counted while both said [`SAID`] bytes.
    tally: Tally,
}

/// Bytes, with all that is around them.
#[derive(Debug, Clone, Copy)]
struct Tally {
    /// From home to home, past the servers.
    direct: u64,
    /// Of these, over IPv6.
    over_ipv6: u64,
    /// From and to the servers.
    served: u64,
    /// What the relay forwarded.
    relayed: u64,
}

impl World {
    fn new(ctx: &Context) -> Result<Self> {
        Self::with(ctx, Servers::Plain)
    }

    fn with(ctx: &Context, servers: Servers) -> Result<Self> {
        let mut internet = Internet::new()?;
        let server = internet.attach_server("server")?;
        let (first, second) = (server.first, server.second);
        let mut extra = args!["--auth-secret", relay::SECRET, "--unauthenticated-rate", "0"];
        extra.extend(args!["--alternate-listen", format!("{}:3479", second.v4)]);
        let mut certificate = Vec::new();
        match servers {
            Servers::Plain => {}
            Servers::BothFamilies => {
                extra.extend(args!["--listen", format!("[{}]:3478", first.v6)]);
                extra.extend(args!["--alternate-listen", format!("[{}]:3479", second.v6)]);
                extra.extend(args!["--relay-ip", first.v6.to_string()]);
            }
            Servers::Secure => {
                let made = certificate_for(ctx, &[first.v4, second.v4])?;
                certificate = args!["--tls-cert", &made.0, "--tls-key", &made.1];
                extra.extend(args!["--tls-listen", format!("{}:443", first.v4)]);
                extra.extend_from_slice(&certificate);
            }
        }
        let relay = Relay::listen(ctx, &server.host, &format!("{}:3478", first.v4), &extra)?;
        let mut flags = args!["--turn-secret", relay::SECRET, "--stun", relay.stun_uri()];
        flags.extend(args!["--turn", relay.turn_uri(), "--turn", relay.turn_tcp_uri()]);
        let listen = match servers {
            Servers::Plain => format!("{}:80", first.v4),
            Servers::BothFamilies => {
                let v6 = format!("[{}]:3478", first.v6);
                flags.extend(args!["--stun", format!("stun:{v6}")]);
                flags.extend(args!["--turn", format!("turn:{v6}?transport=udp")]);
                flags.extend(args!["--turn", format!("turn:{v6}?transport=tcp")]);
                "[::]:80".to_owned()
            }
            Servers::Secure => {
                flags.extend(args!["--turn", relay.turn_tls_uri()?]);
                flags.extend(certificate);
                // The relay has this port at the first address.
                format!("{}:443", second.v4)
            }
        };
        let signaling = Signaling::listen(ctx, &server.host, "signaling", &listen, &flags)?;
        Ok(Self { ctx: ctx.clone(), internet, server, relay, signaling, servers })
    }

    /// A peer in this home, which calls whoever is in the room.
    fn call(&self, home: &Home, mut call: Call) -> Result<Peer> {
        let Addresses { v4, v6 } = self.server.first;
        let url = match (self.servers, home.families) {
            (Servers::Secure, _) => format!("https://{}", self.signaling.grpc),
            (_, Families::V6) => format!("http://[{v6}]:80"),
            (_, Families::V4 | Families::Both) => format!("http://{v4}:80"),
        };
        if home.families == Families::Both {
            call = call.at_every_address();
        }
        if self.servers == Servers::Secure {
            call = call.trusting(self.ctx.folder().join(CERTIFICATE));
        }
        Peer::call(&self.ctx, &home.host, &url, call)
    }

    /// A home of its own, with inner addresses of the network `lan`.
    fn home(&mut self, name: &'static str, nat: Nat, lan: u8) -> Result<Home> {
        let router = self.internet.attach_router(name, nat, lan)?;
        Home::behind(router, name, nat)
    }

    /// A home behind a carrier, which may have others.
    fn home_behind(carrier: &mut Router, name: &'static str, nat: Nat, lan: u8) -> Result<Home> {
        let router = carrier.attach_router(nat, lan)?;
        Home::behind(router, name, nat.behind(carrier.nat()))
    }

    fn stun(&self, families: Families) -> StunServer {
        let Server { first, second, .. } = self.server;
        let (first, second) = match families {
            Families::V4 | Families::Both => (first.v4.into(), second.v4.into()),
            Families::V6 => (first.v6.into(), second.v6.into()),
        };
        StunServer { first, second, port: 3478, alternate_port: 3479 }
    }

    /// Fails if what lies before a home is not what it is said to be.
    fn check(&self, home: &Home) -> Result<()> {
        let name = home.name;
        let found = probe(&home.host, self.stun(home.families))
            .with_context(|| format!("the lab's fault: probing {name}"))?;
        let expected = match (home.families, home.nat.outbound) {
            // No translator; who was not asked is not let in.
            (Families::V6, Outbound::Everything) => Verdict::Firewalled(Dependence::AddressAndPortDependent),
            _ => expected(Some(home.nat)),
        };
        ensure!(found == expected, "the lab's fault: {name} is to have {expected}, but it has {found}");
        Ok(())
    }

    /// Has the two call each other, and fails if they do not meet by the way that is expected.
    fn meet(&self, homes: [&Home; 2], way: Path) -> Result<Met> {
        self.meet_as(homes, way, Call::without_media)
    }

    fn meet_as(&self, homes: [&Home; 2], way: Path, manner: fn(Call) -> Call) -> Result<Met> {
        homes.into_iter().try_for_each(|home| self.check(home))?;
        let met = self.call_each_other(homes, way, |home| manner(Call::new(home.name)))?;
        ensure!(met.tally.went(way), "{SAID} bytes were to go {way} both ways, but {}", met.tally);
        Ok(met)
    }

    fn call_each_other(
        &self,
        [one, other]: [&Home; 2],
        way: Path,
        call: impl Fn(&Home) -> Call,
    ) -> Result<Met> {
        let mut first = self.call(one, call(one))?;
        first.joined()?;
        let began = clock::now();
        let mut second = self.call(other, call(other))?;
        let connected = second.connected()?;
        first.channel_open()?;
        second.channel_open()?;
        let took = clock::now().duration_since(began);
        let tally = self.listen([one, other], way, [&mut first, &mut second])?;
        Ok(Met { one: first, other: second, connected, took, tally })
    }

    /// Has the two talk, and fails if what they say does not go that way.
    fn goes(&self, homes: [&Home; 2], way: Path, peers: [&mut Peer; 2]) -> Result<Tally> {
        let tally = self.listen(homes, way, peers)?;
        ensure!(tally.went(way), "{SAID} bytes were to go {way} both ways, but {tally}");
        Ok(tally)
    }

    /// Has the two talk until what they say goes that way, or long enough: a relayed path that works is taken after
    /// 600 ms, and on a busy machine a direct one may take its place later.
    fn listen(&self, homes: [&Home; 2], way: Path, [first, second]: [&mut Peer; 2]) -> Result<Tally> {
        let deadline = Deadline::after(if way == Path::Direct { PATIENCE } else { Duration::ZERO });
        let mut rounds = 0;
        loop {
            rounds += 1;
            let before = self.counted(homes)?;
            talk(first, second)?;
            let tally = self.tally(&before, homes)?;
            if tally.went(way) || (rounds >= ROUNDS && deadline.passed()) {
                return Ok(tally);
            }
        }
    }

    fn counted(&self, homes: [&Home; 2]) -> Result<([Passages; 2], u64)> {
        let [one, other] = homes.map(|home| home.router.passages());
        Ok(([one?, other?], self.relayed()?))
    }

    /// What the relay has forwarded, either way.
    fn relayed(&self) -> Result<u64> {
        let (out, back) =
            (self.relay.forwarded(Direction::ToPeer)?, self.relay.forwarded(Direction::ToClient)?);
        Ok(out.bytes + back.bytes)
    }

    /// What went by which way since `before`: of what went out and what came in, at either home, the least. So much went
    /// all the way, both ways.
    fn tally(&self, before: &([Passages; 2], u64), homes: [&Home; 2]) -> Result<Tally> {
        let (now, relayed) = self.counted(homes)?;
        let Server { first, second, .. } = self.server;
        let servers: [IpAddr; 4] = [first.v4.into(), first.v6.into(), second.v4.into(), second.v6.into()];
        let seen: Vec<_> = before.0.iter().zip(&now).map(|(before, now)| now.since(before)).collect();
        let least = |pick: &dyn Fn(IpAddr) -> bool| {
            let ways = seen.iter().flat_map(|seen| [seen.out_to(pick), seen.in_from(pick)]);
            ways.map(|carried| carried.bytes).min().unwrap_or_default()
        };
        Ok(Tally {
            direct: least(&|ip| !servers.contains(&ip)),
            over_ipv6: least(&|ip| ip.is_ipv6() && !servers.contains(&ip)),
            served: least(&|ip| servers.contains(&ip)),
            relayed: relayed - before.1,
        })
    }
}

impl Tally {
    /// Whether all of what was said went this way.
    const fn went(&self, way: Path) -> bool {
        let Self { direct, served, relayed, .. } = *self;
        match way {
            Path::Direct => direct >= SAID && relayed < SAID / 2,
            Path::Relayed => served >= SAID && relayed >= SAID && direct < SAID / 4,
        }
    }
}

impl Home {
    fn behind(mut router: Router, name: &'static str, nat: Nat) -> Result<Self> {
        let (host, cable) = router.attach_host()?;
        Ok(Self { name, host, router, nat, families: Families::V4, cable })
    }

    /// The same with addresses of these families.
    fn speaking(mut self, families: Families) -> Result<Self> {
        let only = |family| self.cable.speak_only(family, &self.host);
        match families {
            Families::V4 => self.host = only(Family::V4)?,
            Families::V6 => self.host = only(Family::V6)?,
            Families::Both => {}
        }
        self.families = families;
        Ok(self)
    }
}

/// Each says [`SAID`] bytes, and hears what the other said.
fn talk(one: &mut Peer, other: &mut Peer) -> Result<()> {
    let (at_one, at_other) = (one.process.mark(), other.process.mark());
    let line = |number: usize| format!("{number} {}", "x".repeat(LINE));
    for number in 1..=LINES {
        one.say(&line(number))?;
        other.say(&line(number))?;
    }
    for (peer, from) in [(one, at_one), (other, at_other)] {
        peer.wait_from(from, "the last line", |event| {
            matches!(event, EventKind::Text { text } if text == line(LINES)).then_some(())
        })?;
    }
    Ok(())
}

/// A certificate for these addresses, which signs itself, and its key.
fn certificate_for(ctx: &Context, addresses: &[Ipv4Addr]) -> Result<(PathBuf, PathBuf)> {
    let names: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).context("making a certificate")?;
    std::fs::create_dir_all(ctx.folder())?;
    let (cert, key) = (ctx.folder().join(CERTIFICATE), ctx.folder().join("key.pem"));
    std::fs::write(&cert, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    Ok((cert, key))
}

const CERTIFICATE: &str = "certificate.pem";

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { direct, served, relayed, .. } = self;
        write!(
            f,
            "{direct} went from home to home and {served} by the servers; the relay forwarded {relayed}"
        )
    }
}

impl std::fmt::Display for Met {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { connected, took, tally, .. } = self;
        write!(f, "{} after {} ms; of {SAID} bytes each way, {tally}", connected.path, took.as_millis())
    }
}

/// A first path may be replaced during the first of them.
const ROUNDS: usize = 3;
/// Cases at once.
const JOBS: usize = 4;
const LINES: usize = 40;
const LINE: usize = 900;
/// What each side says in a round, without what is around it.
const SAID: u64 = (LINES * LINE) as u64;
