//! Two peers that meet in a room: how most scenarios begin.

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::Context;
use crate::event::{Connected, Stats};
use crate::peer::{Call, Peer};
use crate::stack::Stack;

/// Two connected peers. Alice was there first.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) alice: Peer,
    pub(super) bob: Peer,
    /// As Bob, who came last, saw it.
    pub(super) connected: Connected,
}

impl Pair {
    /// Lets Alice join, then Bob; returns when both have an open data channel. `dress` says what kind of call it is.
    pub(super) fn meet(ctx: &Context, stack: &Stack, dress: impl Fn(Call) -> Call) -> Result<Self> {
        Self::meet_as(ctx, stack, ["alice", "bob"], dress)
    }

    /// The same under other names, so that the logs of two pairs can be told apart.
    pub(super) fn meet_as(
        ctx: &Context,
        stack: &Stack,
        names: [&str; 2],
        dress: impl Fn(Call) -> Call,
    ) -> Result<Self> {
        let [first, second] = names;
        let alice = stack.call(ctx, dress(Call::new(first)))?;
        let (_, earlier) = alice.joined()?;
        let bob = stack.call(ctx, dress(Call::new(second)))?;
        let (_, later) = bob.joined()?;
        ensure!(earlier < later, "{first} came first but has ordinal {earlier}, and {second} {later}");
        let connected = bob.connected()?;
        for path in [&alice.connected()?.path, &connected.path] {
            let known = |kind: &str| ["host", "srflx", "prflx", "relay"].contains(&kind);
            ensure!(known(&path.local) && known(&path.remote), "{path} is no path");
        }
        alice.channel_open()?;
        bob.channel_open()?;
        Ok(Self { alice, bob, connected })
    }

    /// Text both ways over the data channel. `topic` makes the words new.
    pub(super) fn talk(&mut self, topic: &str) -> Result<()> {
        self.alice.say(&format!("{topic}? asks Alice"))?;
        self.bob.hears(&format!("{topic}? asks Alice"))?;
        self.bob.say(&format!("{topic}! answers Bob, with ünïcödé"))?;
        self.alice.hears(&format!("{topic}! answers Bob, with ünïcödé"))
    }

    /// Waits until each sees and hears the other.
    pub(super) fn see_and_hear(&self) -> Result<()> {
        for peer in [&self.alice, &self.bob] {
            peer.first_frame("video")?;
            peer.first_frame("audio")?;
        }
        Ok(())
    }

    /// Asks both to end and returns what they counted.
    pub(super) fn hang_up(&mut self) -> Result<(Stats, Stats)> {
        self.alice.process.signal(Signal::TERM)?;
        let alice = self.alice.ends_well()?;
        // Alice's hangup may have ended Bob already.
        let _ = self.bob.process.signal(Signal::TERM);
        Ok((alice, self.bob.ends_well()?))
    }

    /// Waits until both have ended by themselves and returns what they counted.
    pub(super) fn end(&mut self) -> Result<(Stats, Stats)> {
        Ok((self.alice.ends_well()?, self.bob.ends_well()?))
    }
}

/// Fails unless `received` is nearly all of `sent`, and at least `floor`.
pub(super) fn nearly_all(what: &str, received: u64, sent: u64, floor: u64) -> Result<()> {
    ensure!(received >= floor, "{what}: {received} arrived, at least {floor} should have");
    ensure!(received <= sent, "{what}: {received} arrived of {sent} sent");
    // What is under way when one side hangs up never arrives.
    ensure!(received * 10 >= sent * 9, "{what}: only {received} of {sent} arrived");
    Ok(())
}
