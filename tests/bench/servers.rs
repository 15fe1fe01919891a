//! The TURN servers that are measured beside each other, each alone on one core.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
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
    /// The same with a call for each datagram.
    Portable,
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
            Self::Portable => "farcall-relay, portable",
            Self::Coturn => "coturn",
            Self::Bare(Forwarding::Plain) => "bare, plain",
            Self::Bare(Forwarding::Batched) => "bare, mmsg",
            Self::Bare(Forwarding::Gathered) => "bare, mmsg, GRO",
            Self::Bare(Forwarding::Cut) => "bare, mmsg, GSO",
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
            Kind::Farcall => start_farcall(ctx, kind, &[]),
            Kind::Portable => start_farcall(ctx, kind, &args!["--data-plane", "portable"]),
            Kind::Coturn => start_coturn(ctx, &args!["--no-tls", "--no-dtls"]),
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

    /// The same with the limits on strangers that it has unless told otherwise.
    pub(crate) fn start_as_installed(ctx: &Context, kind: Kind) -> Result<Self> {
        if kind != Kind::Farcall {
            return Self::start(ctx, kind);
        }
        let host = cpu::server_host();
        let user = format!("{}:{}", USER.0, USER.1);
        let relay = Relay::listen(ctx, &host, &host.any_port(), &args!["--workers", "1", "--user", user])?;
        Ok(Self { udp: relay.udp, process: relay.process, kind })
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

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> Result<u64> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.process.id()))?.count() as u64)
    }

    /// CPU time it has used so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        cpu::time_of(self.process.id())
    }
}

/// A server of TLS and DTLS as well.
#[derive(Debug)]
pub(crate) struct SecureServer {
    server: Server,
    /// Where it serves TLS.
    pub(crate) tls: SocketAddr,
    /// Where it serves DTLS.
    pub(crate) dtls: SocketAddr,
    /// What it shows.
    pub(crate) certificate: Vec<u8>,
}

impl SecureServer {
    /// Starts one, with a certificate of its own.
    pub(crate) fn start(ctx: &Context, kind: Kind) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([Ipv4Addr::LOCALHOST.to_string()])?;
        std::fs::create_dir_all(ctx.folder())?;
        let (cert, key) = (ctx.folder().join("cert.pem"), ctx.folder().join("key.pem"));
        std::fs::write(&cert, made.cert.pem())?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
        let certificate = made.cert.der().to_vec();
        if kind == Kind::Coturn {
            // Both of one port.
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
            let extra = args!["--tls-listening-port", port.port().to_string(), "--cert", cert, "--pkey", key];
            let server = start_coturn(ctx, &extra)?;
            return Ok(Self { server, tls: port, dtls: port, certificate });
        }
        let any = cpu::server_host().any_port();
        let extra = args!["--tls-listen", &any, "--dtls-listen", &any, "--tls-cert", cert, "--tls-key", key];
        let relay = farcall(ctx, &extra)?;
        let tls = relay.tls.context("no TLS")?;
        let dtls = relay.dtls.context("no DTLS")?;
        let server = Server { udp: relay.udp, process: relay.process, kind };
        Ok(Self { server, tls, dtls, certificate })
    }

    /// CPU time it has used so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        self.server.cpu_time()
    }
}

fn farcall(ctx: &Context, extra: &[OsString]) -> Result<Relay> {
    let host = cpu::server_host();
    let user = format!("{}:{}", USER.0, USER.1);
    let mut args = args!["--workers", "1", "--unauthenticated-rate", "0", "--user", user];
    args.extend_from_slice(extra);
    Relay::listen(ctx, &host, &host.any_port(), &args)
}

fn start_farcall(ctx: &Context, kind: Kind, extra: &[OsString]) -> Result<Server> {
    let relay = farcall(ctx, extra)?;
    Ok(Server { udp: relay.udp, process: relay.process, kind })
}

/// coturn cannot pick its port by itself, nor say when it is ready.
fn start_coturn(ctx: &Context, extra: &[OsString]) -> Result<Server> {
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let mut args = args![
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
        "--no-cli",
        "--log-file",
        "stdout",
        "--simple-log",
        "--pidfile",
        "/dev/null",
    ];
    args.extend_from_slice(extra);
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
