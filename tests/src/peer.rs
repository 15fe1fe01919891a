//! `farcall-peer` under test: how to start it, what it says, and how it ends.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::clock::{Deadline, PATIENCE};
use crate::event::{Candidate, Connected, Event, EventKind, Failure, Recorded, Stats};
use crate::host::Host;
use crate::process::{Mark, Process};
use crate::{Context, args};

/// `farcall-peer … call ROOM …`, word by word.
#[derive(Debug, Clone)]
pub struct Call {
    name: String,
    room: String,
    global: Vec<OsString>,
    verb: Vec<OsString>,
    records: bool,
    everywhere: bool,
}

impl Call {
    /// A call with the test clip in room `room`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let verb = args!["--name", name];
        Self {
            name: name.to_owned(),
            room: "room".to_owned(),
            global: Vec::new(),
            verb,
            records: false,
            everywhere: false,
        }
    }

    /// In another room.
    #[must_use]
    pub fn in_room(mut self, room: &str) -> Self {
        room.clone_into(&mut self.room);
        self
    }

    /// Through the relay or not at all.
    #[must_use]
    pub fn relay_only(mut self) -> Self {
        self.global.extend(args!["--ice-policy", "relay"]);
        self
    }

    /// Sending this instead of the test clip.
    #[must_use]
    pub fn sending(mut self, video: impl Into<OsString>, audio: impl Into<OsString>) -> Self {
        self.verb.extend(args!["--video", video.into(), "--audio", audio.into()]);
        self
    }

    /// Pressing these keys of a telephone.
    #[must_use]
    pub fn dialing(mut self, tones: &str) -> Self {
        self.verb.extend(args!["--dtmf", tones]);
        self
    }

    /// Changing what it sends when it is told so.
    #[must_use]
    pub fn taking_commands(mut self) -> Self {
        self.verb.extend(args!["--commands"]);
        self
    }

    /// Telling every so often what the connection has carried.
    #[must_use]
    pub fn counting(mut self, every: Duration) -> Self {
        self.verb.extend(args!["--stats", format!("{}ms", every.as_millis())]);
        self
    }

    /// With a bearer token.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.global.extend(args!["--token", token]);
        self
    }

    /// Trusting servers whose certificates these authorities made, or that are these.
    #[must_use]
    pub fn trusting(mut self, authorities: impl Into<OsString>) -> Self {
        self.global.extend(args!["--ca", authorities.into()]);
        self
    }

    /// Being who has the private key in this file.
    #[must_use]
    pub fn with_identity(mut self, file: impl Into<OsString>) -> Self {
        self.global.extend(args!["--identity", file.into()]);
        self
    }

    /// Talking to nobody but whoever has this key.
    #[must_use]
    pub fn trusting_peer(mut self, key: &str) -> Self {
        self.global.extend(args!["--trust", key]);
        self
    }

    /// Neither video nor audio: the data channel alone.
    #[must_use]
    pub fn without_media(mut self) -> Self {
        self.verb.extend(args!["--video", "none", "--audio", "none"]);
        self
    }

    /// Writes what it receives below the scenario's folder.
    #[must_use]
    pub fn recording(mut self) -> Self {
        self.records = true;
        self
    }

    /// At every address of its host, since browsers do not use loopback where there is anything else.
    #[must_use]
    pub fn at_every_address(mut self) -> Self {
        self.everywhere = true;
        self
    }

    /// Offers whether or not it is its turn.
    #[must_use]
    pub fn offering_always(mut self) -> Self {
        self.verb.extend(args!["--offer", "always"]);
        self
    }

    /// Telling so often what it has carried.
    #[must_use]
    pub fn telling(mut self, interval: Duration) -> Self {
        self.verb.extend(args!["--stats", format!("{}s", interval.as_secs())]);
        self
    }

    /// Obeying lines such as `/hangup`.
    #[must_use]
    pub fn obeying(mut self) -> Self {
        self.verb.extend(args!["--commands"]);
        self
    }

    /// Hangs up by itself.
    #[must_use]
    pub fn lasting(mut self, duration: Duration) -> Self {
        self.verb.extend(args!["--duration", format!("{}ms", duration.as_millis())]);
        self
    }
}

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    /// The program.
    pub process: Process,
}

impl Peer {
    /// Starts `farcall-peer call`.
    pub fn call(ctx: &Context, host: &Host, signaling: &str, call: Call) -> Result<Self> {
        let mut args = args!["--signaling", signaling, "--json"];
        args.extend(call.global);
        args.extend(args!["call", call.room]);
        if !call.everywhere {
            args.extend(args!["--bind", host.ip.to_string()]);
        }
        args.extend(call.verb);
        if call.records {
            let folder = Self::recording_folder(ctx, &call.name);
            std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
            args.extend(args!["--record", folder]);
        }
        Ok(Self { process: ctx.spawn(host, &call.name, "farcall-peer", args)? })
    }

    /// Starts another verb, with these flags before it.
    pub fn verb(
        ctx: &Context,
        host: &Host,
        signaling: &str,
        name: &str,
        global: &[OsString],
        verb: Vec<OsString>,
    ) -> Result<Self> {
        let mut bound = args!["--bind", host.ip.to_string()];
        bound.extend_from_slice(global);
        Self::verb_at_every_address(ctx, host, signaling, name, &bound, verb)
    }

    /// The same at every address of its host, so that it may roam.
    pub fn verb_at_every_address(
        ctx: &Context,
        host: &Host,
        signaling: &str,
        name: &str,
        global: &[OsString],
        verb: Vec<OsString>,
    ) -> Result<Self> {
        let mut args = args!["--signaling", signaling, "--json"];
        args.extend_from_slice(global);
        args.extend(verb);
        Ok(Self { process: ctx.spawn(host, name, "farcall-peer", args)? })
    }

    /// Starts `farcall-peer candidates`, which asks the servers named here and no signaling.
    pub fn candidates(ctx: &Context, host: &Host, servers: Vec<OsString>) -> Result<Self> {
        let mut args = args!["--json", "candidates", "--bind", host.ip.to_string()];
        args.extend(servers);
        Ok(Self { process: ctx.spawn(host, "candidates", "farcall-peer", args)? })
    }

    /// Waits for the first event for which `pick` returns something, counted from its start.
    pub fn wait<T>(&self, what: &str, pick: impl FnMut(EventKind) -> Option<T>) -> Result<T> {
        self.wait_from(Mark::START, what, pick)
    }

    /// Waits for the first event after `from` for which `pick` returns something.
    pub fn wait_from<T>(
        &self,
        from: Mark,
        what: &str,
        mut pick: impl FnMut(EventKind) -> Option<T>,
    ) -> Result<T> {
        self.process
            .wait_for(what, from, Deadline::after(PATIENCE), |line| Ok(pick(Event::parse(line)?.kind)))
    }

    /// Everything that `pick` finds in what it has said so far.
    pub fn said<T>(&self, mut pick: impl FnMut(EventKind) -> Option<T>) -> Result<Vec<T>> {
        self.process.collect(Mark::START, |line| Ok(pick(Event::parse(line)?.kind)))
    }

    /// Waits until it is in the room; returns its session and its place in the order of joining.
    pub fn joined(&self) -> Result<(String, u64)> {
        self.wait("joining the room", |event| {
            if let EventKind::Joined { session, ordinal, .. } = event {
                Some((session, ordinal))
            } else {
                None
            }
        })
    }

    /// Waits until it is connected to the other side.
    pub fn connected(&self) -> Result<Connected> {
        self.wait("the connection", |event| {
            if let EventKind::Connected(connected) = event { Some(connected) } else { None }
        })
    }

    /// Waits for the words that both sides should read the same.
    pub fn safety_words(&self) -> Result<Vec<String>> {
        self.wait("the safety words", |event| {
            if let EventKind::SafetyWords { words } = event { Some(words) } else { None }
        })
    }

    /// Waits until the data channel is open.
    pub fn channel_open(&self) -> Result<()> {
        self.wait("the data channel", |event| matches!(event, EventKind::ChannelOpen { .. }).then_some(()))
    }

    /// Waits for a picture or a sound of the other side.
    pub fn first_frame(&self, wanted: &str) -> Result<()> {
        self.wait(&format!("a first {wanted} frame"), |event| {
            matches!(event, EventKind::FirstFrame { kind, .. } if kind == wanted).then_some(())
        })
    }

    /// Sends a line of text over the data channel.
    pub fn say(&mut self, text: &str) -> Result<()> {
        self.process.say(text)
    }

    /// Waits for a line of text from the other side.
    pub fn hears(&self, wanted: &str) -> Result<()> {
        self.wait(&format!("the text \"{wanted}\""), |event| {
            matches!(event, EventKind::Text { text } if text == wanted).then_some(())
        })
    }

    /// Waits until the other side sends another track of this kind, after `from`; returns its codec.
    pub fn track(&self, from: Mark, wanted: &str) -> Result<String> {
        self.wait_from(from, &format!("a {wanted} track"), |event| {
            let EventKind::Track { kind, codec } = event else { return None };
            (kind == wanted).then_some(codec)
        })
    }

    /// Waits until the other side ends a track of this kind, after `from`, and it is recorded.
    pub fn track_recorded(&self, from: Mark, wanted: &str) -> Result<Recorded> {
        self.wait_from(from, &format!("the end of a {wanted} track"), |event| {
            matches!(event, EventKind::TrackEnded { kind } if kind == wanted).then_some(())
        })?;
        self.wait_from(from, &format!("a recording of {wanted}"), |event| {
            let EventKind::Recorded(recorded) = event else { return None };
            (recorded.kind == wanted).then_some(recorded)
        })
    }

    /// Waits until `--stats` tells, after `from`, of a stream that fits; returns what `pick` makes of it.
    pub fn counts<T>(
        &self,
        from: Mark,
        what: &str,
        mut pick: impl FnMut(&serde_json::Value) -> Option<T>,
    ) -> Result<T> {
        self.wait_from(from, what, |event| {
            let EventKind::StatsReport { report } = event else { return None };
            report.iter().find_map(&mut pick)
        })
    }

    /// All lines of text so far.
    pub fn texts(&self) -> Result<Vec<String>> {
        self.said(|event| {
            let EventKind::Text { text } = event else { return None };
            Some(text)
        })
    }

    /// Waits for a key that the other side presses.
    pub fn hears_key(&self, wanted: char) -> Result<()> {
        self.wait(&format!("the key {wanted}"), |event| {
            matches!(event, EventKind::Dtmf { tone } if tone == wanted).then_some(())
        })
    }

    /// Waits until it is told that `session` is in `state`, after `from`; returns the reason, if there is one.
    pub fn is_told(&self, from: Mark, session: &str, state: &str) -> Result<Option<String>> {
        self.wait_from(from, &format!("the news that its room mate is {state}"), |event| {
            let EventKind::Participant { session: about, state: now, reason } = event else { return None };
            (about == session && now == state).then_some(reason)
        })
    }

    /// Waits for a change of its connection to signaling, after `from`: any of `wanted`.
    pub fn signaling_is(&self, from: Mark, wanted: &[&str]) -> Result<String> {
        self.wait_from(from, &format!("signaling being {}", wanted.join(" or ")), |event| {
            let EventKind::Signaling { state } = event else { return None };
            wanted.contains(&state.as_str()).then_some(state)
        })
    }

    /// The candidates of a kind at one side, so far.
    pub fn candidates_of(&self, side: &str, kind: &str) -> Result<Vec<Candidate>> {
        self.said(|event| {
            let EventKind::Candidate(candidate) = event else { return None };
            (candidate.side == side && candidate.kind == kind).then_some(candidate)
        })
    }

    /// The session descriptions of one kind and direction, so far.
    pub fn negotiated(&self, description: &str, direction: &str) -> Result<usize> {
        let matching = self.said(|event| {
            let EventKind::Negotiation { description: what, direction: way } = event else { return None };
            (what == description && way == direction).then_some(())
        })?;
        Ok(matching.len())
    }

    /// Waits for it to end well; returns what it counted.
    pub fn ends_well(&mut self) -> Result<Stats> {
        let code = self.process.exit_code(Deadline::after(PATIENCE))?;
        let name = self.process.name();
        ensure!(code == 0, "{name} ended with exit code {code}. {}", self.process.last_words());
        let stats =
            self.said(|event| if let EventKind::Stats(stats) = event { Some(*stats) } else { None })?;
        stats.into_iter().next_back().with_context(|| format!("{name} gave no stats"))
    }

    /// Waits for it to fail with `reason` and `code`; returns what it said about it.
    pub fn fails(&mut self, reason: &str, code: i32) -> Result<Failure> {
        let ended = self.process.exit_code(Deadline::after(2 * PATIENCE))?;
        let name = self.process.name();
        let failures =
            self.said(|event| if let EventKind::Error(failure) = event { Some(failure) } else { None })?;
        let Some(failure) = failures.into_iter().next_back() else {
            bail!("{name} ended with exit code {ended} and no error event. {}", self.process.last_words());
        };
        ensure!(
            failure.reason == reason && ended == code,
            "{name} failed with {} and exit code {ended} instead of {reason} and {code}",
            failure.reason
        );
        Ok(failure)
    }

    /// The files it says it wrote.
    pub fn recorded(&self) -> Result<Vec<Recorded>> {
        self.said(|event| if let EventKind::Recorded(recorded) = event { Some(recorded) } else { None })
    }

    /// The file of `kind` that it says it wrote.
    pub fn recording(&self, kind: &str) -> Result<Recorded> {
        let recorded = self.recorded()?.into_iter().find(|recorded| recorded.kind == kind);
        recorded.with_context(|| format!("{} recorded no {kind}", self.process.name()))
    }

    /// The folder it records into.
    #[must_use]
    pub fn recording_folder(ctx: &Context, name: &str) -> PathBuf {
        ctx.folder().join(format!("{name}-recorded"))
    }
}
