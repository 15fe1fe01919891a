//! `farcall-relay` under test, and what it counts.

use std::ffi::OsString;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::clock::{Deadline, PATIENCE, poll};
use crate::host::Host;
use crate::process::{Mark, Process};
use crate::prometheus::Metrics;
use crate::{Context, args};

/// The secret that relay and signaling share unless a scenario wants otherwise.
pub const SECRET: &str = "shared-by-relay-and-signaling";

/// A user with a static password.
pub const USER: (&str, &str) = ("static", "password");

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    /// The program.
    pub process: Process,
    /// Where it serves UDP.
    pub udp: SocketAddr,
    /// Where it serves TCP.
    pub tcp: SocketAddr,
    /// Where it serves TLS, if it was asked to.
    pub tls: Option<SocketAddr>,
    /// Where it serves DTLS, if it was asked to.
    pub dtls: Option<SocketAddr>,
    metrics: SocketAddr,
    host: Host,
}

/// Which way a datagram goes through an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client that allocated to its peer.
    ToPeer,
    /// From a peer to the client that allocated.
    ToClient,
}

/// Application payload, without TURN framing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many.
    pub datagrams: u64,
    /// How much.
    pub bytes: u64,
}

impl Relay {
    /// Starts one on ports that the kernel picks, which knows [`SECRET`] and [`USER`].
    pub fn start(ctx: &Context, host: &Host) -> Result<Self> {
        Self::start_with(ctx, host, &[])
    }

    /// The same, with TLS under a certificate that nobody trusts.
    pub fn start_with_tls(ctx: &Context, host: &Host) -> Result<Self> {
        let names = vec![host.ip.to_string()];
        let certificate = rcgen::generate_simple_self_signed(names).context("making a certificate")?;
        std::fs::create_dir_all(ctx.folder())?;
        let (cert, key) = (ctx.folder().join("relay-cert.pem"), ctx.folder().join("relay-key.pem"));
        std::fs::write(&cert, certificate.cert.pem())?;
        std::fs::write(&key, certificate.signing_key.serialize_pem())?;
        let extra = args!["--tls-listen", host.any_port(), "--tls-cert", cert, "--tls-key", key];
        Self::start_with(ctx, host, &extra)
    }

    /// The same with further flags.
    pub fn start_with(ctx: &Context, host: &Host, extra: &[OsString]) -> Result<Self> {
        let user = format!("{}:{}", USER.0, USER.1);
        let mut args = args!["--auth-secret", SECRET, "--user", user];
        args.extend_from_slice(extra);
        Self::listen(ctx, host, &host.any_port(), &args)
    }

    /// Starts one at `listen`, which lends addresses of its own host, to peers on loopback as well.
    pub fn listen(ctx: &Context, host: &Host, listen: &str, extra: &[OsString]) -> Result<Self> {
        Self::listen_as(ctx, host, "relay", listen, extra)
    }

    /// The same under another name, where there are several.
    pub fn listen_as(
        ctx: &Context,
        host: &Host,
        name: &str,
        listen: &str,
        extra: &[OsString],
    ) -> Result<Self> {
        let metrics = host.any_port();
        let ip = host.ip.to_string();
        let mut args = args!["--listen", listen, "--realm", "farcall.test", "--relay-ip", ip];
        args.extend(args!["--allow-peer", "127.0.0.0/8", "--metrics-listen", metrics]);
        args.extend_from_slice(extra);
        let process = ctx.spawn(host, name, "farcall-relay", args)?;
        let ready = process.wait_for("its ready line", Mark::START, Deadline::after(PATIENCE), |line| {
            serde_json::from_str::<Line>(line).context("not a ready line").map(|line| Some(line.ready))
        })?;
        let udp = *ready.udp.first().context("it serves no UDP")?;
        let tcp = *ready.tcp.first().context("it serves no TCP")?;
        let (tls, dtls) = (ready.tls.first().copied(), ready.dtls.first().copied());
        Ok(Self { process, udp, tcp, tls, dtls, metrics: ready.metrics, host: host.clone() })
    }

    /// For `--stun`.
    #[must_use]
    pub fn stun_uri(&self) -> String {
        format!("stun:{}", self.udp)
    }

    /// For `--turn`.
    #[must_use]
    pub fn turn_uri(&self) -> String {
        format!("turn:{}?transport=udp", self.udp)
    }

    /// For `--turn`, over TCP.
    #[must_use]
    pub fn turn_tcp_uri(&self) -> String {
        format!("turn:{}?transport=tcp", self.tcp)
    }

    /// For `--turn`, over TLS.
    pub fn turn_tls_uri(&self) -> Result<String> {
        let tls = self.tls.context("this relay serves no TLS")?;
        Ok(format!("turns:{tls}?transport=tcp"))
    }

    /// Everything it counts, now.
    pub fn metrics(&self) -> Result<Metrics> {
        self.host.within(|| Metrics::scrape(self.metrics))
    }

    /// What it has forwarded so far.
    pub fn forwarded(&self, direction: Direction) -> Result<Traffic> {
        let direction = match direction {
            Direction::ToPeer => "to_peer",
            Direction::ToClient => "to_client",
        };
        let metrics = self.metrics()?;
        let count = |name| metrics.count(name, &[("direction", direction)]);
        Ok(Traffic {
            datagrams: count("farcall_relay_forwarded_datagrams_total")?,
            bytes: count("farcall_relay_forwarded_bytes_total")?,
        })
    }

    /// How many requests of `method` ended in `result`: `success` or an error code.
    pub fn requests(&self, method: &str, result: &str) -> Result<u64> {
        let labels = [("method", method), ("result", result)];
        self.metrics()?.count("farcall_relay_requests_total", &labels)
    }

    /// Allocations ever made.
    pub fn allocations_created(&self) -> Result<u64> {
        self.metrics()?.count("farcall_relay_allocations_created_total", &[])
    }

    /// Allocations alive.
    pub fn allocations(&self) -> Result<u64> {
        self.metrics()?.count("farcall_relay_allocations", &[])
    }

    /// Waits until `datagrams` more have been forwarded to clients than `before`.
    pub fn forwards_on(&self, before: Traffic, datagrams: u64) -> Result<Traffic> {
        poll(&format!("{datagrams} more datagrams through the relay"), Deadline::after(PATIENCE), || {
            let now = self.forwarded(Direction::ToClient)?;
            Ok((now.datagrams >= before.datagrams + datagrams).then_some(now))
        })
    }
}

#[derive(Deserialize)]
struct Line {
    ready: Ready,
}

#[derive(Deserialize)]
struct Ready {
    udp: Vec<SocketAddr>,
    tcp: Vec<SocketAddr>,
    #[serde(default)]
    tls: Vec<SocketAddr>,
    #[serde(default)]
    dtls: Vec<SocketAddr>,
    metrics: SocketAddr,
}
