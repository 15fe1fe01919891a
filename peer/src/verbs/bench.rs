//! `bench`: the throughput of a reliable data channel. One side sends, the other receives, both tell.
//!
//! The sender says how much will come as a text, then sends it; the receiver says as a text that it has it all.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::meeting::{config, meet};
use super::{Interrupts, hold};
use crate::cli::{self, Common};
use crate::clock;
use crate::connection::Message;
use crate::failure::{Failure, Reason};
use crate::peer::{Config, Peer};
use crate::report::{Event, Reporter, milliseconds};

/// Runs until it is measured, somebody interrupts, or it fails.
pub async fn run(common: &Common, bench: &cli::Bench, reporter: &Reporter) -> Result<(), Failure> {
    if let Some(connections) = bench.connections {
        return hold::run(common, &bench.joining, connections, reporter).await;
    }
    let mut interrupts = Interrupts::new()?;
    let config = Config { media: false, ..config(common, &bench.joining.manner)? };
    let mut peer = meet(config, bench.joining.room.as_deref(), "bench CODE", reporter).await?;
    let outgoing = peer.outgoing();
    let sending = bench.send.map(|bytes| {
        tokio::spawn(async move {
            // It waits until the channel is open.
            let _ = outgoing.send(Message::Text(format!("{ANNOUNCE}{bytes}"))).await;
            let block = Bytes::from(vec![0x55; BLOCK]);
            let mut left = bytes;
            while left > 0 {
                let size = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
                if outgoing.send(Message::Data(block.slice(..size))).await.is_err() {
                    return;
                }
                left -= size as u64;
            }
        })
    });
    let mut measuring: Option<Measuring> = None;
    let mut measured = false;
    loop {
        let (events, data) = peer.sources();
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { break };
                if let (Event::ChannelOpen { .. }, Some(bytes)) = (&event, bench.send) {
                    measuring = Some(Measuring::start(bytes));
                }
                let Event::Text { text } = &event else {
                    reporter.event(&event);
                    continue;
                };
                if let Some(bytes) = text.strip_prefix(ANNOUNCE).and_then(|bytes| bytes.parse().ok()) {
                    measuring = Some(Measuring::start(bytes));
                } else if text == DONE && let Some(done) = measuring.take() {
                    measured = true;
                    reporter.event(&done.event());
                    peer.hang_up("measured");
                }
            }
            Some(bytes) = data.recv() => {
                let Some(going_on) = &mut measuring else { continue };
                going_on.received += bytes.len() as u64;
                if going_on.received >= going_on.bytes && let Some(done) = measuring.take() {
                    measured = true;
                    reporter.event(&done.event());
                    let _ = peer.outgoing().send(Message::Text(DONE.to_owned())).await;
                }
            }
            reason = interrupts.next() => peer.hang_up(reason),
        }
        // The sender hangs up when it has heard; the receiver has nothing more to do then.
        if measured && bench.send.is_none() {
            wait_for_goodbye(&mut peer, reporter).await;
            break;
        }
    }
    if let Some(sending) = sending {
        sending.abort();
    }
    peer.finish().await?;
    if measured { Ok(()) } else { Err(Failure::new(Reason::Internal, "nothing was measured")) }
}

async fn wait_for_goodbye(peer: &mut Peer, reporter: &Reporter) {
    let until = clock::now() + GOODBYE;
    while let Ok(Some(event)) = tokio::time::timeout_at(until.into(), peer.event()).await {
        reporter.event(&event);
        if matches!(event, Event::Hangup { .. }) {
            break;
        }
    }
    peer.hang_up("measured");
    while let Some(event) = peer.event().await {
        reporter.event(&event);
    }
}

struct Measuring {
    bytes: u64,
    received: u64,
    started: Instant,
    cpu: Duration,
}

impl Measuring {
    fn start(bytes: u64) -> Self {
        Self { bytes, received: 0, started: clock::now(), cpu: clock::cpu_time().unwrap_or_default() }
    }

    fn event(&self) -> Event {
        let elapsed = clock::now() - self.started;
        let cpu = clock::cpu_time().unwrap_or_default().saturating_sub(self.cpu);
        Event::Bench {
            bytes: self.bytes,
            elapsed_ms: milliseconds(elapsed),
            megabytes_per_second: self.bytes as f64 / 1e6 / elapsed.as_secs_f64().max(1e-9),
            cpu_seconds: cpu.as_secs_f64(),
        }
    }
}

const ANNOUNCE: &str = "farcall bench: bytes to come: ";
const DONE: &str = "farcall bench: all came";
/// What every WebRTC endpoint takes as one message.
const BLOCK: usize = 64 << 10;
const GOODBYE: Duration = Duration::from_secs(5);
