//! Debian's coturn client tools, a second opinion on the relay: they know nothing of us.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::clock::{Deadline, PATIENCE, poll};
use crate::host::Host;
use crate::process::{Mark, Process};
use crate::relay::{Relay, SECRET, USER};
use crate::tools::Tool;
use crate::{Context, args};

/// How the client talks to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream, framed as RFC 8656 says.
    Tcp,
    /// The stream inside TLS.
    Tls,
    /// The datagrams inside DTLS.
    Dtls,
}

/// How the client sends to its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// ChannelBind and ChannelData.
    Channels,
    /// Send and Data indications.
    Send,
}

/// How the client proves that it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// A user of the configuration.
    Static,
    /// Ephemeral ones that it makes itself from the shared secret.
    Ephemeral,
}

/// What the client says at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Messages sent to the peer.
    pub sent: u64,
    /// Messages that the peer sent back.
    pub received: u64,
    /// Messages that never came back.
    pub lost: u64,
}

/// Clients of one run, and messages of each.
pub const CLIENTS: u64 = 2;
/// Messages that each client sends.
pub const MESSAGES: u64 = 50;

/// Runs `turnutils_uclient` against `relay`, with `echo` as the peer; it must lose nothing.
pub fn exchange(
    ctx: &Context,
    name: &str,
    relay: &Relay,
    echo: &Echo,
    (transport, method, credentials): (Transport, Method, Credentials),
) -> Result<Tally> {
    let mut options = args!["-c", "-m", CLIENTS.to_string(), "-n", MESSAGES.to_string()];
    options.extend(match method {
        Method::Channels => None,
        Method::Send => Some(OsString::from("-s")),
    });
    options.extend(match credentials {
        Credentials::Static => args!["-u", USER.0, "-w", USER.1],
        Credentials::Ephemeral => args!["-u", "coturn", "-W", SECRET],
    });
    uclient(ctx, name, (transport, at(relay, transport)?), echo, options)?.tally()
}

/// Where `relay` serves that.
pub fn at(relay: &Relay, transport: Transport) -> Result<SocketAddr> {
    let server = match transport {
        Transport::Udp => Some(relay.udp),
        Transport::Tcp => Some(relay.tcp),
        Transport::Tls => relay.tls,
        Transport::Dtls => relay.dtls,
    };
    server.context("the relay does not listen for that")
}

/// How a run of `turnutils_uclient` ended, and all that it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub said: String,
}

impl Ending {
    /// What it counted, if it came to the end.
    pub fn tally(&self) -> Result<Tally> {
        let Self { code, said } = self;
        ensure!(*code == 0, "turnutils_uclient ended with exit code {code}: {said}");
        Tally::parse(said).with_context(|| format!("turnutils_uclient said: {said}"))
    }
}

/// Runs `turnutils_uclient` with these options against a server, with `echo` as the peer.
pub fn uclient(
    ctx: &Context,
    name: &str,
    (transport, server): (Transport, SocketAddr),
    echo: &Echo,
    options: Vec<OsString>,
) -> Result<Ending> {
    let mut args = args!["-z", "5", "-p", server.port().to_string()];
    args.extend(args!["-e", echo.address.ip().to_string(), "-r", echo.address.port().to_string()]);
    args.extend(match transport {
        Transport::Udp => args![],
        Transport::Tcp => args!["-t"],
        Transport::Tls => args!["-t", "-S"],
        Transport::Dtls => args!["-S"],
    });
    args.extend(options);
    args.push(server.ip().to_string().into());
    let (code, said) = end_of_tool(ctx, name, Tool::TurnClient, args)?;
    Ok(Ending { code, said })
}

/// Asks the relay for our address with `turnutils_stunclient`.
pub fn reflexive_address(ctx: &Context, relay: &Relay) -> Result<SocketAddr> {
    let args = args!["-p", relay.udp.port().to_string(), relay.udp.ip().to_string()];
    let lines = run_tool(ctx, "stunclient", Tool::StunClient, args)?;
    parse_reflexive(&lines).with_context(|| format!("turnutils_stunclient said: {lines}"))
}

/// What `turnutils_natdiscovery` says about our NAT, asked with these options.
pub fn discovery(ctx: &Context, name: &str, relay: &Relay, options: &[&str]) -> Result<String> {
    let mut args = args!["-p", relay.udp.port().to_string()];
    args.extend(options.iter().map(Into::into));
    args.push(relay.udp.ip().to_string().into());
    run_tool(ctx, name, Tool::NatDiscovery, args)
}

fn run_tool(ctx: &Context, name: &str, tool: Tool, args: Vec<OsString>) -> Result<String> {
    let (code, said) = end_of_tool(ctx, name, tool, args)?;
    ensure!(code == 0, "{tool} ended with exit code {code}: {said}");
    Ok(said)
}

fn end_of_tool(ctx: &Context, name: &str, tool: Tool, args: Vec<OsString>) -> Result<(i32, String)> {
    let mut process = ctx.spawn_tool(&Host::local(), name, tool, args)?;
    let code = process.exit_code(Deadline::after(TOOL_PATIENCE))?;
    let lines = process.collect(Mark::START, |line| Ok(Some(line.to_owned())))?;
    Ok((code, lines.join("\n")))
}

/// Debian's server, to see whether its own client fares better with it. It can neither pick its port by itself nor say
/// when it is ready.
pub fn turnserver(ctx: &Context, host: &Host) -> Result<(Process, SocketAddr)> {
    let ip = host.ip.to_string();
    let server = host.within(|| Ok(UdpSocket::bind((host.ip, 0))?.local_addr()?))?;
    let mut args = args!["-n", "--listening-ip", &ip, "--relay-ip", &ip, "--allow-loopback-peers"];
    args.extend(args!["--listening-port", server.port().to_string(), "--no-tls", "--no-dtls", "--no-cli"]);
    args.extend(args![
        "--lt-cred-mech",
        "--user",
        format!("{}:{}", USER.0, USER.1),
        "--realm",
        "farcall.test"
    ]);
    args.extend(args!["--log-file", "stdout", "--simple-log", "--pidfile", "/dev/null"]);
    let process = ctx.spawn_tool(host, "turnserver", Tool::TurnServer, args)?;
    poll("coturn to listen", Deadline::after(PATIENCE), || Ok(TcpStream::connect(server).ok()))?;
    Ok((process, server))
}

/// `turnutils_uclient` waits about six seconds by itself.
const TOOL_PATIENCE: Duration = Duration::from_secs(40);

impl Tally {
    fn parse(output: &str) -> Result<Self> {
        // Progress lines carry the same keys; the last one is the sum.
        Ok(Self {
            sent: last_number_after(output, "tot_send_msgs=").context("no count of messages sent")?,
            received: last_number_after(output, "tot_recv_msgs=").context("no count of messages received")?,
            lost: last_number_after(output, "Total lost packets ").context("no count of messages lost")?,
        })
    }
}

fn last_number_after(text: &str, key: &str) -> Option<u64> {
    let (_, after) = text.rsplit_once(key)?;
    let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    after.get(..digits)?.parse().ok()
}

fn parse_reflexive(output: &str) -> Option<SocketAddr> {
    let (_, after) = output.rsplit_once("reflexive addr: ")?;
    after.split_whitespace().next()?.parse().ok()
}

/// A peer that sends back whatever it gets. Dropping it ends it.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts one on loopback.
    pub fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into())
    }

    /// Starts one at this address.
    pub fn start_at(ip: IpAddr) -> Result<Self> {
        let socket = UdpSocket::bind((ip, 0)).context("binding the echo")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let address = socket.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let mut datagram = [0; 2048];
                while !over.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
                    let _ = socket.send_to(datagram.get(..length).unwrap_or_default(), from);
                }
            }
        });
        Ok(Self { address, over, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a run of coturn 4.6.1 against its own server.
    const OUTPUT: &str = "\
5: : start_mclient: msz=2, tot_send_msgs=20, tot_recv_msgs=20, tot_send_bytes ~ 2000, tot_recv_bytes ~ 2000
6: : start_mclient: tot_send_msgs=40, tot_recv_msgs=39
6: : start_mclient: tot_send_bytes ~ 4000, tot_recv_bytes ~ 3900
6: : Total transmit time is 6
6: : Total lost packets 1 (2.500000%), total send dropped 0 (0.000000%)
6: : Average round trip delay 0.000000 ms; min = 0 ms, max = 0 ms";

    #[test]
    fn the_sums_are_read_and_not_the_progress() {
        assert_eq!(Tally::parse(OUTPUT).unwrap(), Tally { sent: 40, received: 39, lost: 1 });
        assert!(Tally::parse("0: : ERROR: Cannot complete Allocation").is_err());
    }

    #[test]
    fn the_reflexive_address_is_read() {
        let output = "0: : IPv4. UDP reflexive addr: 127.0.0.1:50832";
        assert_eq!(parse_reflexive(output), Some(SocketAddr::from(([127, 0, 0, 1], 50832))));
        assert_eq!(parse_reflexive("0: : no answer"), None);
    }
}
