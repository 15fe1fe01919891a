//! Everything that coturn's client can be asked to do, over every transport: what it does beyond the ordinary.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};

use crate::coturn::{self, Echo, Ending, Tally, Transport, at, turnserver, uclient};
use crate::host::Host;
use crate::relay::{Relay, USER};
use crate::{Context, Evidence, args};

use super::coturn::start_secured;

const TRANSPORTS: [(&str, Transport); 4] =
    [("udp", Transport::Udp), ("tcp", Transport::Tcp), ("tls", Transport::Tls), ("dtls", Transport::Dtls)];

const CLIENTS: u64 = 2;
const MESSAGES: u64 = 20;

/// Of a client that succeeds every other time.
const ATTEMPTS: usize = 30;

/// The keys of access tokens that are built into it.
const TOKEN_KEYS: [&str; 3] = [
    "north:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "union:MTIzNDU2Nzg5MDEyMzQ1Ng==",
    "oldempire:MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=",
];

/// Two clients with allocations of one relay are each other's peers.
pub(super) fn to_each_other(ctx: &Context) -> Result<Evidence> {
    let relay = start_secured(ctx, &[])?;
    let echo = Echo::start()?;
    let evidence = all_lose_nothing(ctx, &relay, &echo, &[&["-c", "-y"], &["-c", "-y", "-s"]])?;
    let between = relay.metrics()?.count("farcall_relay_internal_datagrams_total", &[])?;
    ensure!(between > 0, "nothing went from one relayed address to another");
    Ok(evidence.fact(format!("{between} datagrams went from one relayed address of the relay to another")))
}

/// Two clients with TCP allocations (RFC 6062), one of which connects to the other.
pub(super) fn connections(ctx: &Context) -> Result<Evidence> {
    let relay = start_secured(ctx, &[])?;
    let echo = Echo::start()?;
    let runs = std::thread::scope(|scope| {
        let running = [("tcp", Transport::Tcp), ("tls", Transport::Tls)].map(|(name, transport)| {
            let (relay, echo) = (&relay, &echo);
            let run = move || {
                let name = format!("{name}-T");
                let mut args = args!["-T", "-m", CLIENTS.to_string(), "-n", MESSAGES.to_string()];
                args.extend(args!["-u", USER.0, "-w", USER.1]);
                let run = uclient(ctx, &name, (transport, at(relay, transport)?), echo, args)?;
                Ok::<_, anyhow::Error>((name, run))
            };
            scope.spawn(run)
        });
        let ends = running.into_iter().map(|run| run.join().map_err(|_| anyhow::anyhow!("-T panicked"))?);
        ends.collect::<Result<Vec<_>>>()
    })?;
    let evidence = lost_nothing(&runs)?;
    let (asked, come_for) =
        (relay.requests("connect", "success")?, relay.requests("connection_bind", "success")?);
    ensure!(asked >= 2 && come_for == 2 * asked, "{asked} connections, and {come_for} were come for");
    let fact = format!("{asked} connections from one relayed address to another, come for at both ends");
    Ok(evidence.fact(fact))
}

/// IPv6 relays, relays of both families, and those that a client asks for an IPv4 relay in so many words.
pub(super) fn families(ctx: &Context) -> Result<Evidence> {
    let relay = start_secured(ctx, &args!["--relay-ip", "::1", "--allow-peer", "::1/128"])?;
    let (v4, v6) = (Echo::start()?, Echo::start_at(IpAddr::V6(Ipv6Addr::LOCALHOST))?);
    let (of_v4, of_v6) = std::thread::scope(|scope| {
        let of_v4 = scope.spawn(|| all_lose_nothing(ctx, &relay, &v4, &[&["-c", "-X"]]));
        let of_v6 = all_lose_nothing(ctx, &relay, &v6, &[&["-c", "-x"]]);
        (of_v4.join(), of_v6)
    });
    let of_v4 = of_v4.map_err(|_| anyhow::anyhow!("-X panicked"))??;
    let (asked, made) = (relay.requests("allocate", "success")?, relay.allocations_created()?);
    ensure!(asked == made, "{asked} requests for one relay each made {made}");
    let of_both = all_lose_nothing(ctx, &relay, &v4, &[&["-Z"]])?;
    let (asked, made) = (relay.requests("allocate", "success")? - asked, relay.allocations_created()? - made);
    ensure!(made == 2 * asked, "{asked} requests for two relays each made {made}");
    let facts = [of_v4, of_v6?, of_both].into_iter().flat_map(|evidence| evidence.facts);
    let evidence = facts.fold(Evidence::new(), Evidence::fact);
    Ok(evidence.fact(format!("{asked} requests for both families made {made} relayed addresses")))
}

/// Permissions and channels that nobody needs, for peers of the other family among them.
pub(super) fn extra_requests(ctx: &Context) -> Result<Evidence> {
    let relay = start_secured(ctx, &[])?;
    let echo = Echo::start()?;
    let evidence = all_lose_nothing(ctx, &relay, &echo, &[&["-c", "-G"]])?;
    let refused = relay.requests("channel_bind", "443")? + relay.requests("create_permission", "443")?;
    ensure!(refused > 0, "no peer of another family was asked for");
    Ok(evidence.fact(format!("{refused} requests for peers of the other family were refused with 443")))
}

/// RFC 7635. The password that it is given is wrong, so that the token alone can let it in.
pub(super) fn access_tokens(ctx: &Context) -> Result<Evidence> {
    let mut flags = args!["--oauth-server", "turn.example"];
    TOKEN_KEYS.iter().for_each(|key| flags.extend(args!["--oauth-key", *key]));
    let relay = start_secured(ctx, &flags)?;
    let echo = Echo::start()?;
    let user = ["-u", "nobody", "-w", "nothing"];
    let options: [&[&str]; 2] = [&["-c", "-J"], &["-c", "-J", "-s"]];
    let runs = runs(ctx, &relay, &echo, &options, &user)?;
    let evidence = lost_nothing(&runs)?;
    let asked = relay.requests("allocate", "success")?;
    Ok(evidence.fact(format!("{asked} requests for allocations were granted by the token alone")))
}

/// RFC 8016: it goes on from another port in the middle.
pub(super) fn mobility(ctx: &Context) -> Result<Evidence> {
    let relay = start_secured(ctx, &[])?;
    let echo = Echo::start()?;
    let evidence = std::thread::scope(|scope| {
        let (relay, echo) = (&relay, &echo);
        let running = TRANSPORTS
            .map(|transport| (transport.0, scope.spawn(move || moves(ctx, relay, echo, transport))));
        running.into_iter().try_fold(Evidence::new(), |evidence, (name, run)| {
            let tally = run.join().map_err(|_| anyhow::anyhow!("{name} panicked"))??;
            Ok::<_, anyhow::Error>(evidence.fact(told(&format!("-M over {name}"), tally)))
        })
    })?;
    // Whoever comes from another address needs another nonce there.
    let moved = relay.requests("refresh", "438")?;
    ensure!(moved >= 4, "{moved} clients moved");
    Ok(evidence.fact(format!("{moved} times a client refreshed its allocation from an address that was new")))
}

/// One client over one transport. Over TLS and DTLS about half of its runs end with 1 before it has sent anything,
/// whoever the server is: after its move it picks a version at random, of which half are too old for anybody today,
/// and does not pick again; or it writes to the connection that it has just left. Then it tries its luck once more.
fn moves(ctx: &Context, relay: &Relay, echo: &Echo, (name, transport): (&str, Transport)) -> Result<Tally> {
    let server = at(relay, transport)?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut options = args!["-c", "-M", "-m", "1", "-n", MESSAGES.to_string()];
        options.extend(args!["-u", USER.0, "-w", USER.1]);
        let run = uclient(ctx, &format!("{name}-{attempt}"), (transport, server), echo, options)?;
        let gave_up = run.code == 1 && !run.said.contains("tot_send_msgs=");
        if gave_up && attempt < ATTEMPTS {
            continue;
        }
        let tally = run.tally().with_context(|| format!("-M over {name}, attempt {attempt}"))?;
        ensure!(tally == whole(1), "-M over {name}: {tally:?}");
        return Ok(tally);
    }
}

/// TCP allocations to which the tool connects from outside. It sees half of its messages come back, whoever serves it.
pub(super) fn passive(ctx: &Context) -> Result<Evidence> {
    let relay = start_secured(ctx, &[])?;
    let echo = Echo::start()?;
    let (_turnserver, theirs) = turnserver(ctx, &Host::local())?;
    // Over TLS the tool speaks TLS to the relayed address as well, where nobody does.
    let servers = [("with-turnserver", theirs), ("tcp-P", at(&relay, Transport::Tcp)?)];
    let tallies = std::thread::scope(|scope| {
        let running = servers.map(|(name, server)| {
            let echo = &echo;
            let run = move || {
                let mut args = args!["-P", "-m", CLIENTS.to_string(), "-n", MESSAGES.to_string()];
                args.extend(args!["-u", USER.0, "-w", USER.1]);
                uclient(ctx, name, (Transport::Tcp, server), echo, args)?.tally().context(name)
            };
            scope.spawn(run)
        });
        let ends = running.into_iter().map(|run| run.join().map_err(|_| anyhow::anyhow!("-P panicked"))?);
        ends.collect::<Result<Vec<_>>>()
    })?;
    let half = Tally { received: CLIENTS * MESSAGES / 2, lost: CLIENTS * MESSAGES / 2, ..whole(CLIENTS) };
    let mut evidence = Evidence::new();
    for ((name, _), tally) in servers.iter().zip(tallies) {
        ensure!(tally == half, "{name}: {tally:?}");
        evidence = evidence.fact(told(name, tally));
    }
    let connected = relay.requests("connection_bind", "success")?;
    ensure!(connected >= CLIENTS / 2, "{connected} connections were bound");
    Ok(evidence.fact(format!("{connected} connections from outside were taken by their clients")))
}

/// What breaks the rules: with Send it goes on, with channels it stops at the first 400, as with Debian's own server.
pub(super) fn misbehaving(ctx: &Context) -> Result<Evidence> {
    let relay = start_secured(ctx, &[])?;
    let echo = Echo::start()?;
    let evidence = all_lose_nothing(ctx, &relay, &echo, &[&["-c", "-N", "-s"], &["-c", "-B"]])?;
    let runs = runs(ctx, &relay, &echo, &[&["-c", "-N"]], &["-u", USER.0, "-w", USER.1])?;
    let refused = relay.requests("channel_bind", "400")?;
    let (_turnserver, other) = turnserver(ctx, &Host::local())?;
    let mut options = args!["-c", "-N", "-m", CLIENTS.to_string(), "-n", MESSAGES.to_string()];
    options.extend(args!["-u", USER.0, "-w", USER.1]);
    let theirs = uclient(ctx, "with-turnserver", (Transport::Udp, other), &echo, options)?;
    for (name, run) in &runs {
        ensure!(run.code == theirs.code, "{name} ends with {}, with coturn {}", run.code, theirs.code);
        for said in [&run.said, &theirs.said] {
            ensure!(said.contains("channel bind: error 400"), "{name} was not refused: {said}");
        }
    }
    ensure!(refused >= 4, "{refused} channels were refused");
    Ok(evidence.fact(format!("{refused} second channels for one peer were refused with 400, as by coturn")))
}

/// RFC 5780: mapping and its lifetime, filtering, hairpins and collisions, with padding and without. There is no NAT here, and it says so.
pub(super) fn discovery(ctx: &Context) -> Result<Evidence> {
    let flags = args!["--alternate-listen", "127.0.0.2:0"];
    let relay = Relay::start_with(ctx, &Host::local(), &flags)?;
    let ours = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let cases: [(&str, &[&str], &[&str]); 6] = [
        ("mapping", &["-m"], &["NAT with Endpoint Independent Mapping!", "No ALG: Mapped == XOR-Mapped"]),
        ("filtering", &["-f"], &["NAT with Endpoint Independent Filtering!"]),
        ("padded", &["-m", "-f", "-P"], &["Independent Mapping!", "Independent Filtering!"]),
        ("hairpin", &["-H"], &["Received a request (maybe a successful hairpinning)"]),
        ("lifetime", &["-t", "-T", "1"], &["RFC 5780 response 2"]),
        ("collision", &["-c", "-A", "127.0.0.3"], &["UDP reflexive addr: 127.0.0.3:"]),
    ];
    let mut evidence = Evidence::new();
    for (name, options, expected) in cases {
        let said = coturn::discovery(ctx, name, &relay, options)?;
        for expected in expected {
            ensure!(said.contains(expected), "{name}: no \"{expected}\" in {said}");
        }
        ensure!(said.contains(&format!("UDP reflexive addr: {ours}:")), "{name}: {said}");
        ensure!(said.contains("Other addr: : 127.0.0.2:"), "{name}: {said}");
        evidence = evidence.fact(format!("{name}: \"{}\"", expected.join("\", \"")));
    }
    Ok(evidence)
}

/// Every list of options over every transport, all at once: their time is spent waiting.
fn runs(
    ctx: &Context,
    relay: &Relay,
    echo: &Echo,
    options: &[&[&str]],
    user: &[&str],
) -> Result<Vec<(String, Ending)>> {
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for options in options {
            for (name, transport) in TRANSPORTS {
                let name = format!("{name}{}", options.concat());
                let mut args = args!["-m", CLIENTS.to_string(), "-n", MESSAGES.to_string()];
                args.extend(options.iter().chain(user).map(OsString::from));
                let server = at(relay, transport)?;
                let run = {
                    let name = name.clone();
                    move || patiently(ctx, &name, (transport, server), echo, &args)
                };
                running.push((name, scope.spawn(run)));
            }
        }
        let ends = running.into_iter().map(|(name, run)| {
            let run = run.join().map_err(|_| anyhow::anyhow!("{name} panicked"))?;
            Ok((name.clone(), run.context(name)?))
        });
        ends.collect()
    })
}

/// The tool gives up on what it did not read in time, which a busy machine makes happen: then it tries again.
fn patiently(
    ctx: &Context,
    name: &str,
    server: (Transport, SocketAddr),
    echo: &Echo,
    args: &[OsString],
) -> Result<Ending> {
    let mut run = uclient(ctx, name, server, echo, args.to_vec())?;
    for attempt in 2..=3 {
        if run.code != 0 || run.tally()?.lost == 0 {
            break;
        }
        run = uclient(ctx, &format!("{name}-{attempt}"), server, echo, args.to_vec())?;
    }
    Ok(run)
}

/// Runs them with the static user; every message comes back, as the relay counts, too.
fn all_lose_nothing(ctx: &Context, relay: &Relay, echo: &Echo, options: &[&[&str]]) -> Result<Evidence> {
    lost_nothing(&runs(ctx, relay, echo, options, &["-u", USER.0, "-w", USER.1])?)
}

fn lost_nothing(runs: &[(String, Ending)]) -> Result<Evidence> {
    let mut evidence = Evidence::new();
    for (name, run) in runs {
        let tally = run.tally().with_context(|| name.clone())?;
        ensure!(tally == whole(CLIENTS), "{name}: {tally:?}");
        evidence = evidence.fact(told(name, tally));
    }
    Ok(evidence)
}

const fn whole(clients: u64) -> Tally {
    Tally { sent: clients * MESSAGES, received: clients * MESSAGES, lost: 0 }
}

fn told(name: &str, tally: Tally) -> String {
    format!("{name}: {} messages sent, {} came back", tally.sent, tally.received)
}
