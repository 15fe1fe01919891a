//! Calls go on while one relay takes over from another.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::pair::{Pair, nearly_all};
use crate::clock::{Deadline, PATIENCE};
use crate::event::EventKind;
use crate::host::Host;
use crate::relay::{Direction, Relay, SECRET};
use crate::stack::{Settings, Stack};
use crate::{Context, Evidence, args};

/// Long enough for two upgrades on a machine that has other things to do.
const CALL: Duration = Duration::from_secs(12);
const UPGRADES: usize = 2;

pub(super) fn call(ctx: &Context) -> Result<Evidence> {
    std::fs::create_dir_all(ctx.folder())?;
    let (host, socket) = (Host::local(), ctx.folder().join("upgrade.sock"));
    let flags = args!["--auth-secret", SECRET, "--upgrade-socket", socket];
    let relay = Relay::listen(ctx, &host, &host.any_port(), &flags)?;
    let address = relay.udp;
    let mut stack = Stack::around(ctx, relay, Settings::default())?;
    let mut pair = Pair::meet(ctx, &stack, |call| call.relay_only().lasting(CALL))?;
    pair.see_and_hear()?;
    pair.talk("Before")?;

    let mut evidence = Evidence::new();
    for upgrade in 1..=UPGRADES {
        let allocations = stack.relay.allocations()?;
        let name = format!("relay-{upgrade}");
        let new = Relay::listen_as(ctx, &host, &name, &address.to_string(), &flags)?;
        ensure!(new.udp == address, "the new relay serves {}", new.udp);
        let mut old = std::mem::replace(&mut stack.relay, new);
        let code = old.process.exit_code(Deadline::after(PATIENCE))?;
        ensure!(code == 0, "the old relay ended with exit code {code}. {}", old.process.last_words());
        let kept = stack.relay.allocations()?;
        ensure!(kept == allocations && kept >= 2, "{kept} allocations of {allocations} went along");
        let before = stack.relay.forwarded(Direction::ToClient)?;
        stack.relay.forwards_on(before, 100)?;
        pair.talk("After")?;
        let (from, to) = (old.process.id(), stack.relay.process.id());
        evidence = evidence.fact(format!("process {to} went on for {from} with {kept} allocations"));
    }
    let (alice, bob) = pair.end()?;
    for (peer, own, other) in [(&pair.alice, &alice, &bob), (&pair.bob, &bob, &alice)] {
        let name = peer.process.name();
        let (video, sent) = (own.video.context("no video stats")?, other.video.context("no video stats")?);
        let audio = own.audio.context("no audio stats")?;
        let floor = 12 * CALL.as_secs();
        nearly_all(&format!("video frames at {name}"), video.frames_received, sent.frames_sent, floor)?;
        let lost = (audio.packets_lost, video.packets_lost);
        ensure!(lost.0 <= 0 && lost.1 <= 0, "{name} missed {lost:?} packets of sound and pictures");
        let troubles = peer.said(|event| {
            let EventKind::Ice { state } = event else { return None };
            ["disconnected", "failed"].contains(&state.as_str()).then_some(state)
        })?;
        ensure!(troubles.is_empty(), "the path of {name} was {troubles:?} for a while");
    }
    Ok(evidence
        .connected(&pair.connected)
        .arrived(&alice, &bob)
        .fact("neither peer missed a packet or noticed anything"))
}
