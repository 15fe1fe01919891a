//! `bench --connections`: many connections of one process that carry nothing, and what they cost.

use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Interrupts;
use super::meeting::{config, in_room};
use crate::cli::{Common, Joining};
use crate::clock;
use crate::failure::{Failure, Reason};
use crate::peer::{Config, Peer};
use crate::report::{Event, Reporter};

/// Runs until somebody interrupts, or one of them fails.
pub(super) async fn run(
    common: &Common,
    joining: &Joining,
    connections: u32,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let mut interrupts = Interrupts::new()?;
    let before = resident_bytes();
    let config = Config { media: false, ..config(common, &joining.manner)? };
    let name = joining.room.as_deref().unwrap_or_default();
    let (tell, mut news) = mpsc::channel(256);
    let (stop, stopped) = watch::channel("");
    let mut peers = JoinSet::new();
    for number in 1..=connections {
        let peer = Peer::start(in_room(config.clone(), &format!("{name}-{number}"))?)?;
        peers.spawn(stay(peer, tell.clone(), stopped.clone()));
    }
    let (mut open, mut settled) = (0_u32, 0_u32);
    let mut idle_since: Option<Idle> = None;
    // What they cost while all were there, if the other side has ended them.
    let mut held = None;
    let mut failed = None;
    let reason = loop {
        tokio::select! {
            Some(event) = news.recv() => {
                if matches!(event, Event::ChannelOpen { .. }) {
                    open += 1;
                } else if matches!(event, Event::SafetyWords { .. }) {
                    // The last thing that is computed when one comes up.
                    settled += 1;
                } else if matches!(event, Event::Stats(_)) {
                    // One that was up is over.
                    (open, settled) = (open.saturating_sub(1), settled.saturating_sub(1));
                }
                // Programs count them; people need not read a hundred of each.
                let of_one = matches!(event, Event::ChannelOpen { .. } | Event::SafetyWords { .. });
                if matches!(event, Event::Warning { .. }) || (of_one && !reporter.is_human()) {
                    reporter.event(&event);
                }
                if open.min(settled) == connections {
                    idle_since.get_or_insert_with(Idle::begin);
                } else if let Some(idle) = idle_since.take() {
                    held = Some(idle.end(connections, before));
                }
            }
            Some(ended) = peers.join_next() => {
                let ended = ended.map_err(|error| Failure::new(Reason::Internal, error.to_string()));
                failed = ended.and_then(|ended| ended).err();
                break "failed";
            }
            reason = interrupts.next() => break reason,
        }
    };
    let held = idle_since.map(|idle| idle.end(connections, before)).or(held);
    if let Some(held) = &held {
        reporter.event(held);
    }
    let _ = stop.send(reason);
    // They tell of their ends, and nobody needs to know.
    drop(news);
    while let Some(ended) = peers.join_next().await {
        failed = failed.or_else(|| ended.ok().and_then(Result::err));
    }
    match (failed, held) {
        (Some(failure), _) => Err(failure),
        (None, Some(_)) => Ok(()),
        (None, None) => Err(Failure::new(Reason::Internal, "not all of the connections came up")),
    }
}

async fn stay(
    mut peer: Peer,
    tell: mpsc::Sender<Event>,
    mut stopped: watch::Receiver<&'static str>,
) -> Result<(), Failure> {
    loop {
        tokio::select! {
            event = peer.event() => match event {
                Some(event) => drop(tell.send(event).await),
                None => break,
            },
            Ok(()) = stopped.changed() => peer.hang_up(*stopped.borrow_and_update()),
        }
    }
    peer.finish().await
}

/// When all were there, and what had been used until then.
#[derive(Debug, Clone, Copy)]
struct Idle {
    since: Instant,
    cpu: Duration,
}

impl Idle {
    fn begin() -> Self {
        Self { since: clock::now(), cpu: clock::cpu_time().unwrap_or_default() }
    }

    fn end(&self, connections: u32, before: u64) -> Event {
        let cpu = clock::cpu_time().unwrap_or_default().saturating_sub(self.cpu);
        let idle = clock::now() - self.since;
        Event::Held {
            connections,
            resident_bytes: resident_bytes().saturating_sub(before),
            cpu_percent: 100.0 * cpu.as_secs_f64() / idle.as_secs_f64().max(1e-9),
        }
    }
}

/// What of this process is in memory, as far as the system tells.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    1024 * kibibytes.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_used_is_resident() {
        let before = resident_bytes();
        let used = vec![1_u8; 32 << 20];
        assert!(resident_bytes() > before + (16 << 20), "of {before} bytes and {} more", used.len());
    }
}
