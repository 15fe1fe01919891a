//! The TURN servers that are measured beside each other, each alone on one core.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use farcall_tests::clock::{Deadline, PATIENCE, poll};
use farcall_tests::process::{Mark, Process};
use farcall_tests::{Context, args};

use crate::cpu;
use crate::forwarder::{self, Forwarding};
use farcall_tests::relay::{Relay, USER};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `farcall-relay` with one worker.
    Farcall,
    /// Debian's coturn with one relay thread, or the one that `COTURN` names.
    Coturn,
    /// What forwards and does nothing else.
    Bare(Forwarding),
}

impl Kind {
    /// What the table calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Farcall => "farcall-relay",
            Self::Coturn => "coturn",
            Self::Bare(Forwarding::Plain) => "bare, plain",
            Self::Bare(Forwarding::Batched) => "bare, mmsg",
            Self::Bare(Forwarding::Segmented) => "bare, GSO",
        }
    }
}

/// A server that answers.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    kind: Kind,
    /// Where it serves UDP.
    pub(crate) udp: SocketAddr,
}

impl Server {
    /// Starts one and waits until it answers.
    pub(crate) fn start(ctx: &Context, kind: Kind) -> Result<Self> {
        match kind {
            Kind::Farcall => {
                let host = cpu::server_host();
                let extra = args![
                    "--workers",
                    "1",
                    "--unauthenticated-rate",
                    "0",
                    "--user",
                    format!("{}:{}", USER.0, USER.1)
                ];
                let relay = Relay::listen(ctx, &host, &host.any_port(), &extra)?;
                Ok(Self { udp: relay.udp, process: relay.process, kind })
            }
            Kind::Coturn => start_coturn(ctx),
            Kind::Bare(forwarding) => {
                let args = args![forwarder::WORD, forwarding.name()];
                let process = ctx.spawn(&cpu::server_host(), "forwarder", "farcall-bench", args)?;
                let deadline = Deadline::after(PATIENCE);
                let udp =
                    process.wait_for("its address", Mark::START, deadline, |line| Ok(line.parse().ok()))?;
                Ok(Self { process, udp, kind })
            }
        }
    }

    /// Whether sessions are opened without TURN.
    pub(crate) fn is_bare(&self) -> bool {
        matches!(self.kind, Kind::Bare(_))
    }

    /// Resident bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(1024 * line.trim().trim_end_matches(" kB").parse::<u64>()?)
    }

    /// CPU time it has used so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        cpu::time_of(self.process.id())
    }
}

/// coturn cannot pick its port by itself, nor say when it is ready.
fn start_coturn(ctx: &Context) -> Result<Server> {
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let args = args![
        "-n",
        "--listening-ip",
        "127.0.0.1",
        "--relay-ip",
        "127.0.0.1",
        "--listening-port",
        free.port().to_string(),
        "--allow-loopback-peers",
        "--lt-cred-mech",
        "--user",
        format!("{}:{}", USER.0, USER.1),
        "--realm",
        "farcall.test",
        "--relay-threads",
        "1",
        "--no-tls",
        "--no-dtls",
        "--no-cli",
        "--log-file",
        "stdout",
        "--simple-log",
        "--pidfile",
        "/dev/null",
    ];
    let program = std::env::var_os("COTURN").unwrap_or_else(|| "turnserver".into());
    let process = ctx.launch(&cpu::server_host(), "coturn", program.into(), args)?;
    poll("coturn to answer", Deadline::after(PATIENCE), || answers(free))?;
    Ok(Server { process, udp: free, kind: Kind::Coturn })
}

/// Whether a Binding request is answered.
fn answers(server: SocketAddr) -> Result<Option<()>> {
    use farcall_relay::stun::{Class, MessageWriter, Method, TransactionId};

    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut request = Vec::new();
    let id = TransactionId(rand::random());
    MessageWriter::new(&mut request, Class::Request, Method::BINDING, id).finish()?;
    socket.send(&request).context("asking for a binding")?;
    Ok(socket.recv(&mut [0; 256]).ok().map(drop))
}
