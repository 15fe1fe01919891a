//! A relay and a signaling server that know each other: what a call needs.

use std::ffi::OsString;

use anyhow::Result;

use crate::browser::{self, Browsers, Page};
use crate::host::Host;
use crate::peer::{Call, Peer};
use crate::relay::{self, Relay};
use crate::signaling::Signaling;
use crate::{Context, args};

/// The servers of a scenario.
#[derive(Debug)]
pub struct Stack {
    /// Where the peers and the relay run.
    pub host: Host,
    /// STUN and TURN.
    pub relay: Relay,
    /// The rendezvous.
    pub signaling: Signaling,
    /// Where signaling runs.
    pub signaling_host: Host,
    signaling_args: Vec<OsString>,
}

/// What differs from scenario to scenario.
#[derive(Debug)]
pub struct Settings {
    /// Where signaling runs.
    pub signaling_host: Host,
    /// The secret under which signaling makes TURN credentials.
    pub turn_secret: &'static str,
    /// The STUN server that peers are told of, if not the relay itself.
    pub stun_uri: Option<String>,
    /// The TURN server that peers are told of, if not the relay over UDP.
    pub turn_uri: Option<String>,
    /// Further flags of signaling.
    pub signaling: Vec<OsString>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            signaling_host: Host::local(),
            turn_secret: relay::SECRET,
            stun_uri: None,
            turn_uri: None,
            signaling: Vec::new(),
        }
    }
}

impl Stack {
    /// Starts both on this machine.
    pub fn start(ctx: &Context) -> Result<Self> {
        Self::start_with(ctx, Settings::default())
    }

    /// Starts both, with `settings`.
    pub fn start_with(ctx: &Context, settings: Settings) -> Result<Self> {
        let relay = Relay::start(ctx, &Host::local())?;
        Self::around(ctx, relay, settings)
    }

    /// Starts signaling around a relay that runs already.
    pub fn around(ctx: &Context, relay: Relay, settings: Settings) -> Result<Self> {
        let stun = settings.stun_uri.unwrap_or_else(|| relay.stun_uri());
        let turn = settings.turn_uri.unwrap_or_else(|| relay.turn_uri());
        let mut args = args!["--stun", stun, "--turn", turn, "--turn-secret", settings.turn_secret];
        args.extend(settings.signaling);
        let signaling_host = settings.signaling_host;
        let signaling = Signaling::start(ctx, &signaling_host, &args)?;
        Ok(Self { host: Host::local(), relay, signaling, signaling_host, signaling_args: args })
    }

    /// Starts signaling again where it was, with the flags it had.
    pub fn restart_signaling(&mut self, ctx: &Context, name: &str) -> Result<()> {
        let args = &self.signaling_args;
        self.signaling = Signaling::restart(ctx, &self.signaling_host, name, &self.signaling, args)?;
        Ok(())
    }

    /// Starts another signaling server with the same flags, on a port of its own.
    pub fn another_node(&self, ctx: &Context, name: &str) -> Result<Signaling> {
        let host = &self.signaling_host;
        Signaling::listen(ctx, host, name, &host.any_port(), &self.signaling_args)
    }

    /// Starts a peer that calls through these servers.
    pub fn call(&self, ctx: &Context, call: Call) -> Result<Peer> {
        Peer::call(ctx, &self.host, &self.signaling.url(), call)
    }

    /// Starts a peer with another verb that uses these servers.
    pub fn peer(&self, ctx: &Context, name: &str, global: &[OsString], verb: Vec<OsString>) -> Result<Peer> {
        Peer::verb(ctx, &self.host, &self.signaling.url(), name, global, verb)
    }

    /// Opens the page, with these words behind its address.
    pub fn page(&self, browsers: &Browsers, setup: &browser::Setup, query: &str) -> Result<Page> {
        browsers.open(setup, &format!("{}/?{query}", self.signaling.url()))
    }
}
