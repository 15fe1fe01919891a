//! What one forwarded datagram costs the relay.
//!
//! Clients send through channels, peers echo, so every round is two forwards a session. As many datagrams are
//! under way as there are sessions: a closed loop, in which nothing overflows and slow is only slow. The server has
//! a core to itself; what counts is its CPU time by the datagrams that arrived.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use farcall_tests::Context;
use farcall_tests::clock::{self, Deadline};
use farcall_tests::relay::USER;

use crate::cpu;
use crate::figures::Figures;
use crate::servers::{Kind, Server};
use crate::turn_client::{TurnClient, drain};

/// Sessions at once, and bytes of a datagram: calls with voice, more of them, and video.
const LOADS: [(usize, usize); 3] = [(1, 160), (100, 160), (100, 1200)];
/// How often every server takes its turn.
const ROUNDS: usize = 5;
/// How long one measurement lasts.
const DURATION: Duration = Duration::from_secs(2);
/// When a round is given up and what is missing counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(200);

/// Measures.
pub(crate) fn run(ctx: &Context, figures: &mut Figures) -> Result<()> {
    cpu::pin_load()?;
    for (sessions, bytes) in LOADS {
        for _ in 0..ROUNDS {
            for kind in [Kind::Farcall, Kind::Coturn] {
                let cost = measure(ctx, kind, sessions, bytes)
                    .with_context(|| format!("{} with {sessions} sessions of {bytes} B", kind.name()))?;
                let what = format!("{}, {sessions} × {bytes} B", kind.name());
                figures.add(&what, "µs CPU per datagram", cost.microseconds);
                figures.add(&what, "forwards per CPU-second", 1e6 / cost.microseconds);
                figures.add(&what, "% lost", cost.lost_percent);
            }
        }
    }
    Ok(())
}

struct Cost {
    microseconds: f64,
    lost_percent: f64,
}

/// A client with its allocation, and the peer it talks to.
struct Session {
    client: TurnClient,
    peer: UdpSocket,
}

fn measure(ctx: &Context, kind: Kind, sessions: usize, bytes: usize) -> Result<Cost> {
    let server = Server::start(ctx, kind)?;
    let sessions = (0..sessions).map(|_| Session::open(&server)).collect::<Result<Vec<_>>>()?;
    let payload = vec![0x5a; bytes];
    let frame = TurnClient::frame(&payload)?;

    let before = server.cpu_time()?;
    let end = Deadline::after(DURATION);
    let (mut sent, mut arrived) = (0, 0);
    while !end.passed() {
        arrived += round(&sessions, &frame, &payload)?;
        sent += 2 * sessions.len() as u64;
    }
    let used = server.cpu_time()?.saturating_sub(before);
    ensure!(arrived > 0, "nothing arrived");
    #[expect(clippy::cast_precision_loss, reason = "counts of seconds' worth of datagrams")]
    let (sent, arrived) = (sent as f64, arrived as f64);
    Ok(Cost {
        microseconds: used.as_secs_f64() * 1e6 / arrived,
        lost_percent: 100.0 * (sent - arrived) / sent,
    })
}

impl Session {
    fn open(server: &Server) -> Result<Self> {
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("binding a peer")?;
        let client = TurnClient::allocate(server.udp, USER)?;
        client.bind_channel(peer.local_addr()?)?;
        peer.connect(client.relayed()).context("connecting a peer")?;
        peer.set_nonblocking(true)?;
        Ok(Self { client, peer })
    }
}

/// One datagram of every session to its peer and back; returns how many of the two each arrived.
fn round(sessions: &[Session], frame: &[u8], payload: &[u8]) -> Result<u64> {
    for session in sessions {
        session.client.send(frame)?;
    }
    let all = sessions.len() as u64;
    let (mut echoed, mut returned) = (0, 0);
    let mut buffer = [0; 2048];
    let started = clock::now();
    while returned < all && clock::now().duration_since(started) < LOST_AFTER {
        for session in sessions {
            for _ in 0..drain(&session.peer, &mut buffer)? {
                echoed += 1;
                session.peer.send(payload).context("echoing")?;
            }
            returned += session.client.drain(&mut buffer)?;
        }
    }
    Ok(echoed + returned)
}
