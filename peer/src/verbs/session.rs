//! What the verbs have in common that work on connections: a peer beside them, whose events are reported.

use std::time::Duration;

use super::Interrupts;
use crate::clock;
use crate::failure::Failure;
use crate::peer::Peer;
use crate::report::{Event, Reporter};

/// Reports what happens to `peer` until `work` is done, somebody interrupts, or the peer ends; then ends the peer.
/// Nothing is returned if it ended before the work did.
pub(super) async fn run<T>(
    peer: Peer,
    reporter: &Reporter,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<Option<T>, Failure> {
    watch(peer, reporter, work, |_| {}).await
}

/// The same, and shows every event to `look`.
pub(super) async fn watch<T>(
    mut peer: Peer,
    reporter: &Reporter,
    work: impl Future<Output = Result<T, Failure>>,
    mut look: impl FnMut(&Event),
) -> Result<Option<T>, Failure> {
    let mut interrupts = Interrupts::new()?;
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            event = peer.event() => match event {
                Some(event) => {
                    look(&event);
                    report(reporter, &event);
                }
                None => break None,
            },
            done = &mut work => break Some(done),
            reason = interrupts.next() => peer.hang_up(reason),
        }
    };
    reporter.no_progress();
    peer.hang_up(if matches!(done, Some(Ok(_))) { "done" } else { "failed" });
    let until = clock::now() + GOODBYE;
    while let Ok(Some(event)) = tokio::time::timeout_at(until.into(), peer.event()).await {
        report(reporter, &event);
    }
    let ended = peer.finish().await;
    match done {
        Some(done) => done.map(Some),
        None => ended.map(|()| None),
    }
}

/// What is said of a call's chat is no news here.
fn report(reporter: &Reporter, event: &Event) {
    let of_a_call = matches!(event, Event::ChannelOpen { .. } | Event::Stats(_) | Event::Text { .. });
    if !(of_a_call && reporter.is_human()) {
        reporter.event(event);
    }
}

const GOODBYE: Duration = Duration::from_secs(10);
