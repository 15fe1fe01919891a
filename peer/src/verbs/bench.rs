//! `bench`: the throughput of a reliable data channel. One side sends, the other receives, both tell.
//!
//! The sender says how much will come as a text, then sends it; the receiver says as a text that it has it all. Texts
//! and data reach this verb by different ways, so that the first data may be here before the text that announces it.

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
                    measuring.get_or_insert_with(Measuring::start).bytes = Some(bytes);
                }
                let Event::Text { text } = &event else {
                    reporter.event(&event);
                    continue;
                };
                if let Some(bytes) = text.strip_prefix(ANNOUNCE).and_then(|bytes| bytes.parse().ok()) {
                    measuring.get_or_insert_with(Measuring::start).bytes = Some(bytes);
                } else if text == DONE && let Some(done) = measuring.take() {
                    measured = true;
                    reporter.event(&done.event());
                    peer.hang_up("measured");
                }
            }
            Some(bytes) = data.recv() => {
                measuring.get_or_insert_with(Measuring::start).received += bytes.len() as u64;
            }
            reason = interrupts.next() => peer.hang_up(reason),
        }
        if bench.send.is_none()
            && let Some(done) = measuring.take_if(|measuring| measuring.is_complete())
        {
            measured = true;
            reporter.event(&done.event());
            let _ = peer.outgoing().send(Message::Text(DONE.to_owned())).await;
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

/// From the first thing heard of it.
struct Measuring {
    /// All that is to come, once it was announced.
    bytes: Option<u64>,
    received: u64,
    started: Instant,
    cpu: Duration,
}

impl Measuring {
    fn start() -> Self {
        Self { bytes: None, received: 0, started: clock::now(), cpu: clock::cpu_time().unwrap_or_default() }
    }

    fn is_complete(&self) -> bool {
        self.bytes.is_some_and(|bytes| self.received >= bytes)
    }

    fn event(&self) -> Event {
        let bytes = self.bytes.unwrap_or(self.received);
        let elapsed = clock::now() - self.started;
        let cpu = clock::cpu_time().unwrap_or_default().saturating_sub(self.cpu);
        Event::Bench {
            bytes,
            elapsed_ms: milliseconds(elapsed),
            megabytes_per_second: bytes as f64 / 1e6 / elapsed.as_secs_f64().max(1e-9),
            cpu_seconds: cpu.as_secs_f64(),
        }
    }
}

const ANNOUNCE: &str = "farcall bench: bytes to come: ";
const DONE: &str = "farcall bench: all came";
/// What every WebRTC endpoint takes as one message.
const BLOCK: usize = 64 << 10;
const GOODBYE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_overtook_its_announcement_counts() {
        let mut measuring = Measuring::start();
        measuring.received += 3;
        assert!(!measuring.is_complete());
        measuring.bytes = Some(4);
        assert!(!measuring.is_complete());
        measuring.received += 1;
        assert!(measuring.is_complete());
        assert!(matches!(measuring.event(), Event::Bench { bytes: 4, .. }));
    }
}
