//! What the relay costs: its CPU time by what arrived, beside the least that it could be and beside coturn.
//!
//! Clients send through channels and peers echo, so every round is two forwards a session. As many datagrams are
//! under way as there are sessions: a closed loop, in which nothing overflows and slow is only slow. The server has
//! a core to itself.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use farcall_relay::stun::{Class, MessageWriter, Method, TransactionId};
use farcall_tests::Context;
use farcall_tests::clock::Deadline;
use farcall_tests::relay::USER;
use farcall_tests::turn_client::{Stranger, TurnClient};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::figures::Figures;
use crate::forwarder::Forwarding;
use crate::load::{Load, Session};
use crate::secure::{Connector, Layer, SecureSession};
use crate::servers::{Kind, SecureServer, Server};
use crate::{cpu, flood, latency, secure};

const PLAIN: Kind = Kind::Bare(Forwarding::Plain);
const MMSG: Kind = Kind::Bare(Forwarding::Batched);
const GRO: Kind = Kind::Bare(Forwarding::Gathered);
const CUT: Kind = Kind::Bare(Forwarding::Cut);
const GSO: Kind = Kind::Bare(Forwarding::Segmented);

const RIVALS: &[Kind] = &[Kind::Farcall, Kind::Coturn];

/// A row of the table: a load, and who takes turns at it.
struct Row {
    name: &'static str,
    load: What,
    kinds: &'static [Kind],
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// To peers and back.
    Forward { sessions: usize, bytes: usize, burst: usize },
    /// From client to client, both by allocations of this server.
    Between { pairs: usize, bytes: usize },
    /// New clients' challenge, Allocate, and Refresh to nothing, so many of them at a time.
    Cycle { clients: usize },
    /// Requests of so many sources.
    Binding { sources: usize },
    /// So many allocations, each with a permission and a channel.
    Memory { allocations: usize },
    /// Requests of a million strangers.
    Flood,
    /// From client to peer, at 20 000 datagrams a second, of all servers in turn.
    Latency,
    /// Through TLS or DTLS.
    Secure(Secure),
}

#[derive(Debug, Clone, Copy)]
enum Secure {
    /// All that a connection costs which asks for a Binding and goes.
    Handshake(Layer),
    /// To peers and back.
    Forward { layer: Layer, sessions: usize, bytes: usize },
}

const fn forward(sessions: usize, bytes: usize, burst: usize) -> What {
    What::Forward { sessions, bytes, burst }
}

const ROWS: [Row; 17] = [
    Row { name: "1x160", load: forward(1, 160, 1), kinds: &[Kind::Farcall, PLAIN, MMSG, Kind::Coturn] },
    Row {
        name: "100x160",
        load: forward(100, 160, 1),
        kinds: &[Kind::Farcall, PLAIN, MMSG, GSO, Kind::Coturn],
    },
    Row { name: "1000x160", load: forward(1000, 160, 1), kinds: &[Kind::Farcall, PLAIN, MMSG, Kind::Coturn] },
    Row { name: "9900x160", load: forward(9_900, 160, 1), kinds: &[Kind::Farcall, MMSG] },
    Row { name: "100x1200x8", load: forward(100, 1200, 8), kinds: &[Kind::Farcall, MMSG, GSO, Kind::Coturn] },
    Row { name: "between", load: What::Between { pairs: 100, bytes: 160 }, kinds: RIVALS },
    Row { name: "cycle", load: What::Cycle { clients: 1 }, kinds: RIVALS },
    Row { name: "16cycles", load: What::Cycle { clients: 16 }, kinds: RIVALS },
    Row {
        name: "binding",
        load: What::Binding { sources: 16 },
        kinds: &[Kind::Farcall, PLAIN, MMSG, Kind::Coturn],
    },
    Row { name: "memory", load: What::Memory { allocations: 10_000 }, kinds: RIVALS },
    Row { name: "flood", load: What::Flood, kinds: RIVALS },
    Row { name: "latency", load: What::Latency, kinds: &[MMSG, Kind::Farcall, Kind::Coturn] },
    Row { name: "steps", load: forward(100, 1200, 8), kinds: &[PLAIN, MMSG, GRO, CUT, GSO, Kind::Portable] },
    Row { name: "tls", load: What::Secure(Secure::Handshake(Layer::Tls)), kinds: RIVALS },
    Row { name: "dtls", load: What::Secure(Secure::Handshake(Layer::Dtls)), kinds: RIVALS },
    Row {
        name: "tls100x160",
        load: What::Secure(Secure::Forward { layer: Layer::Tls, sessions: 100, bytes: 160 }),
        kinds: RIVALS,
    },
    Row {
        name: "dtls100x160",
        load: What::Secure(Secure::Forward { layer: Layer::Dtls, sessions: 100, bytes: 160 }),
        kinds: RIVALS,
    },
];

/// How often every server takes its turn; the first is not counted.
const ROUNDS: usize = 6;
/// Enough for the largest row.
const DESCRIPTORS: u64 = 40_000;
/// How long one measurement lasts.
const DURATION: Duration = Duration::from_secs(1);

/// Measures the rows whose names are given, or all; behind a name, the one server that is wanted.
pub(crate) fn run(ctx: &Context, figures: &mut Figures, only: &[String]) -> Result<()> {
    raise_descriptor_limit()?;
    cpu::pin_load()?;
    for Row { name, load, kinds } in &ROWS {
        let is_wanted = |kind: &Kind| {
            only.is_empty()
                || only.iter().any(|wanted| match wanted.split_once('/') {
                    None => wanted == name,
                    Some((row, server)) => row == *name && server == kind.name(),
                })
        };
        let kinds: Vec<_> = kinds.iter().copied().filter(is_wanted).collect();
        if kinds.is_empty() {
            continue;
        }
        // What is no matter of time is counted once.
        let (counted_from, rounds) = match load {
            What::Flood => (0, 1),
            What::Memory { .. } => (1, 2),
            What::Forward { .. }
            | What::Between { .. }
            | What::Cycle { .. }
            | What::Binding { .. }
            | What::Latency
            | What::Secure(_) => (1, ROUNDS),
        };
        for round in 0..rounds {
            if let What::Latency = load {
                latency::measure(ctx, name, &kinds, (round >= counted_from).then_some(&mut *figures))?;
                continue;
            }
            for kind in &kinds {
                let what = format!("{name}, {}", kind.name());
                let samples = measure(ctx, *kind, *load).with_context(|| what.clone())?;
                for (unit, sample) in samples.into_iter().filter(|_| round >= counted_from) {
                    figures.add(&what, unit, sample);
                }
            }
        }
    }
    Ok(())
}

/// Thousands of sessions have two sockets each, and a server one for each beside its own. Root may go past the limit.
fn raise_descriptor_limit() -> Result<()> {
    let enough = Some(DESCRIPTORS);
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < DESCRIPTORS)
        && setrlimit(Resource::Nofile, Rlimit { current: enough, maximum: enough }).is_ok()
    {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("raising the descriptor limit")
}

/// What one run brings: units and figures.
pub(crate) type Samples = Vec<(&'static str, f64)>;

fn measure(ctx: &Context, kind: Kind, what: What) -> Result<Samples> {
    if let What::Secure(what) = what {
        return secure(ctx, kind, what);
    }
    if let What::Flood = what {
        return flood::measure(ctx, kind);
    }
    let server = Server::start(ctx, kind)?;
    match what {
        What::Forward { sessions, bytes, burst } => {
            let sessions =
                (0..sessions).map(|_| Session::with_peer(&server, bytes)).collect::<Result<Vec<_>>>()?;
            exchange(&server, &sessions, burst)
        }
        What::Between { pairs, bytes } => {
            let sessions =
                (0..pairs).map(|_| Session::of_clients(&server, bytes)).collect::<Result<Vec<_>>>()?;
            exchange(&server, &sessions, 1)
        }
        What::Cycle { clients } => cycle(&server, clients),
        What::Binding { sources } => binding(&server, sources),
        What::Memory { allocations } => memory(&server, allocations),
        What::Flood | What::Latency | What::Secure(_) => bail!("measured elsewhere"),
    }
}

fn exchange(server: &Server, sessions: &[Session], burst: usize) -> Result<Samples> {
    let mut load = Load::new();
    ensure!(load.round(sessions, burst) > 0, "nothing arrives");
    let before = server.cpu_time()?;
    let end = Deadline::after(DURATION);
    let (mut sent, mut arrived) = (0, 0);
    while !end.passed() {
        arrived += load.round(sessions, burst);
        sent += 2 * (sessions.len() * burst) as u64;
    }
    let used = server.cpu_time()?.saturating_sub(before);
    ensure!(arrived > 0, "nothing arrived");
    let lost = 100.0 * (float(sent) - float(arrived)) / float(sent);
    Ok(vec![("µs CPU per datagram", microseconds(used) / float(arrived)), ("% lost", lost)])
}

fn cycle(server: &Server, clients: usize) -> Result<Samples> {
    let before = server.cpu_time()?;
    let end = Deadline::after(DURATION);
    let mut cycles = 0;
    while !end.passed() {
        let mut strangers = (0..clients).map(|_| Stranger::new(server.udp)).collect::<Result<Vec<_>>>()?;
        strangers.iter_mut().try_for_each(Stranger::knock)?;
        // coturn remembers a client for a while after it released, and the system gives its port to another.
        let asking: Vec<_> = strangers.into_iter().flat_map(|stranger| stranger.ask(USER)).collect();
        let mut allocated: Vec<_> = asking.into_iter().flat_map(TurnClient::allocated).collect();
        allocated.iter_mut().try_for_each(TurnClient::leave)?;
        for client in &mut allocated {
            client.answer()?;
            cycles += 1;
        }
    }
    let used = server.cpu_time()?.saturating_sub(before);
    ensure!(cycles > 0, "no cycle is completed");
    Ok(vec![("µs CPU per cycle", microseconds(used) / float(cycles))])
}

fn binding(server: &Server, sources: usize) -> Result<Samples> {
    let sockets = (0..sources)
        .map(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect(server.udp)?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            Ok(socket)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut request = Vec::new();
    MessageWriter::new(&mut request, Class::Request, Method::BINDING, TransactionId([7; 12])).finish()?;
    let before = server.cpu_time()?;
    let end = Deadline::after(DURATION);
    let mut answers = 0;
    while !end.passed() {
        for socket in &sockets {
            socket.send(&request)?;
        }
        for socket in &sockets {
            answers += u64::from(socket.recv(&mut [0; 256]).is_ok());
        }
    }
    let used = server.cpu_time()?.saturating_sub(before);
    ensure!(answers > 0, "nothing is answered");
    Ok(vec![("µs CPU per Binding", microseconds(used) / float(answers))])
}

fn memory(server: &Server, allocations: usize) -> Result<Samples> {
    // What any first client makes a server touch is not an allocation's share.
    let first = [Session::with_peer(server, 160)?];
    Load::new().round(&first, 1);
    let start = server.resident_bytes()?;
    let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let mut clients = (0..allocations)
        .map(|_| {
            let mut client = TurnClient::allocate(server.udp, USER)?;
            client.bind_channel(peer)?;
            Ok(client)
        })
        .collect::<Result<Vec<_>>>()?;
    let full = server.resident_bytes()?;
    clients.iter_mut().try_for_each(TurnClient::release)?;
    // Memory goes back when the server next looks, within seconds.
    let deadline = Deadline::after(Duration::from_secs(5));
    let mut end = server.resident_bytes()?;
    while !deadline.passed() && end > start + start / 20 {
        end = end.min(server.resident_bytes()?);
    }
    Ok(vec![
        ("bytes per allocation", (float(full) - float(start)) / float(allocations as u64)),
        ("MB at first", float(start) / 1e6),
        ("% of that after all have gone", 100.0 * float(end) / float(start)),
    ])
}

fn secure(ctx: &Context, kind: Kind, what: Secure) -> Result<Samples> {
    let server = SecureServer::start(ctx, kind)?;
    let connector = Connector::new(&server.certificate)?;
    let count = |used, count: u64| microseconds(used) / float(count);
    match what {
        Secure::Handshake(layer) => {
            let before = server.cpu_time()?;
            let end = Deadline::after(DURATION);
            let mut handshakes = 0;
            while !end.passed() {
                secure::ask(&mut *connector.connect(&server, layer)?)?;
                handshakes += 1;
            }
            Ok(vec![("µs CPU per handshake", count(server.cpu_time()? - before, handshakes))])
        }
        Secure::Forward { layer, sessions, bytes } => {
            let mut sessions = (0..sessions)
                .map(|_| SecureSession::open(connector.connect(&server, layer)?, bytes))
                .collect::<Result<Vec<_>>>()?;
            secure::round(&mut sessions)?;
            let before = server.cpu_time()?;
            let end = Deadline::after(DURATION);
            let mut arrived = 0;
            while !end.passed() {
                arrived += secure::round(&mut sessions)?;
            }
            Ok(vec![("µs CPU per datagram", count(server.cpu_time()? - before, arrived))])
        }
    }
}

pub(crate) fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "counts of a second's worth, and sizes of processes")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}
