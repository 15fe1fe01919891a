//! A lab for a person: two homes, a relay and signaling, and ways to get in.
//!
//! Nothing of it is left when it ends, however that happens: it runs in a process namespace of its own, which the kernel
//! empties with its first process.

pub mod options;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context as _, Result};

use crate::clock::{self, Deadline, PATIENCE};
use crate::host::Host;
use crate::lab::cable::{Cable, Traits};
use crate::lab::internet::Server;
use crate::lab::{Internet, Nat, Router, rights};
use crate::process::Process;
use crate::relay::{self, Relay};
use crate::signaling::Signaling;
use crate::terminal::{Style, shown};
use crate::tools::Tool;
use crate::{Context, args};
use options::{Options, Place};

/// A running lab.
#[derive(Debug)]
pub struct Playground {
    options: Options,
    ctx: Context,
    programs: PathBuf,
    server: Server,
    relay: Relay,
    signaling: Signaling,
    hosts: BTreeMap<Place, Host>,
    outer: [IpAddr; 2],
    recordings: Vec<Process>,
    _internet: Internet,
    _routers: Vec<Router>,
    _cables: Vec<Cable>,
}

impl Playground {
    /// Brings everything up. Programs are those in `programs`, logs and recordings go below `folder`.
    pub fn open(options: Options, programs: PathBuf, folder: PathBuf) -> Result<Self> {
        rights::check()?;
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("clearing {}", folder.display()));
            }
            _ => fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?,
        }
        let ctx = Context::new(programs.clone(), folder);
        let mut internet = Internet::new()?;
        let server = internet.attach_server("relay")?;
        let mut routers = Vec::new();
        let mut hosts = BTreeMap::from([(Place::Relay, server.host.clone())]);
        let mut outer = [server.host.ip; 2];
        let mut cables = Vec::new();
        let homes = [Place::A, Place::B].into_iter().zip(options.nats).zip(&mut outer).zip(1..);
        for (((place, nat), outer), number) in homes {
            let host = attach(&mut internet, &mut routers, place.name(), nat, number)?;
            *outer = match routers.last() {
                Some(router) if nat.is_some() => router.addresses().v4.into(),
                _ => host.ip,
            };
            hosts.insert(place, host);
            if let Some(traits) = options.cable {
                cables.push(internet.splice(place.name(), traits, number.into())?);
            }
        }
        let relay = start_relay(&ctx, &server)?;
        let mut flags = args!["--stun", relay.stun_uri(), "--turn", relay.turn_uri()];
        flags.extend(args!["--turn", relay.turn_tcp_uri(), "--turn", relay.turn_tls_uri()?]);
        flags.extend(args!["--turn-secret", relay::SECRET]);
        // A port that even strict firewalls let through.
        let place = Host { ip: server.second.v4.into(), ..server.host.clone() };
        let signaling = Signaling::listen(&ctx, &place, "signaling", &format!("{}:80", place.ip), &flags)?;
        let mut playground = Self {
            options,
            ctx,
            programs,
            server,
            relay,
            signaling,
            hosts,
            outer,
            recordings: Vec::new(),
            _internet: internet,
            _routers: routers,
            _cables: cables,
        };
        playground.record()?;
        playground.write_doors()?;
        Ok(playground)
    }

    /// What a person wants to know, and words to paste.
    #[must_use]
    pub fn greeting(&self, style: Style) -> String {
        let mut text = String::new();
        let mut row = |what: &str, value: String| {
            let _ = writeln!(text, "{} {value}", style.bold(&format!("{what:<11}")));
        };
        let homes = [Place::A, Place::B].into_iter().zip(&self.options.names).zip(self.outer);
        for ((place, name), outer) in homes {
            let inner = self.hosts.get(&place).map(|host| host.ip.to_string()).unwrap_or_default();
            row(&format!("host {}", place.name()), format!("{inner} behind {outer} ({name})"));
        }
        row("host relay", format!("{} and {}", self.server.first.v4, self.server.second.v4));
        row(
            "IPv6",
            "of both homes, behind firewalls; farcall-peer --bind with an address above leaves it out"
                .to_owned(),
        );
        if let Some(traits) = self.options.cable {
            row("lines", format!("of both homes, each way: {}", words(traits)));
        }
        row("signaling", format!("{} (its page is there, too)", self.signaling.url()));
        row("STUN", self.relay.stun_uri());
        for uri in [Ok(self.relay.turn_uri()), Ok(self.relay.turn_tcp_uri()), self.relay.turn_tls_uri()] {
            row("TURN", uri.unwrap_or_default());
        }
        row("credentials", format!("user {}, password {} (or of signaling)", relay::USER.0, relay::USER.1));
        row("logs", shown(self.ctx.folder()));
        for recording in &self.recordings {
            row("recording", shown(&self.ctx.folder().join(format!("{}.pcap", recording.name()))));
        }
        let door = |place: Place| shown(&self.ctx.folder().join(place.name()));
        let _ = writeln!(text, "\nFrom another terminal, a shell in each home, and what to type there:\n");
        for (line, why) in [
            (door(Place::A), "a shell; the same for b and relay"),
            (format!("{} farcall-peer call my-room", door(Place::A)), "waits"),
            (format!("{} farcall-peer call my-room", door(Place::B)), "calls"),
            (format!("{} farcall-peer nat", door(Place::A)), "what its NAT is like"),
            (format!("{} ip address", door(Place::B)), "what it has"),
        ] {
            let _ = writeln!(text, "    {:<52} {}", style.green(&line), style.dim(why));
        }
        text
    }

    /// A command line that runs in a shell of that host, with our programs on its search path.
    fn command(&self, place: Place, shell: &[OsString]) -> Result<Command> {
        let host = self.hosts.get(&place).context("no such host")?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).args(&host.enter).args(shell).env("PATH", self.path());
        command.env("FARCALL_PEER_SIGNALING", self.signaling.url());
        command.env("FARCALL_PEER_CA", self.authority());
        command.env("FARCALL_PEER_HOME", self.ctx.folder().join(format!("{}.home", place.name())));
        command.env("FARCALL_LAB_HOST", place.name());
        Ok(command)
    }

    /// Opens the shell that a person is used to.
    pub fn shell(&self, place: Place) -> Result<ExitStatus> {
        let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
        self.command(place, &[shell])?.status().context("starting a shell")
    }

    /// Starts what was asked for.
    pub fn start(&self) -> Result<Vec<Child>> {
        let runs = self.options.runs.iter().map(|(place, line)| {
            let mut command = self.command(*place, &args!["/bin/sh", "-c", line])?;
            command.spawn().with_context(|| format!("starting {line}"))
        });
        runs.collect()
    }

    /// What somebody has to wait for: the servers.
    #[must_use]
    pub const fn servers(&self) -> [&Process; 2] {
        [&self.relay.process, &self.signaling.process]
    }

    /// Takes away what leads into a lab that is gone.
    pub fn close(self) {
        for place in Place::ALL {
            // A person may have done so.
            let _ = fs::remove_file(self.ctx.folder().join(place.name()));
        }
    }

    fn path(&self) -> OsString {
        let mut path = self.programs.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path
    }

    /// What signed the relay's certificate: itself.
    fn authority(&self) -> PathBuf {
        self.ctx.folder().join("relay-cert.pem")
    }

    fn record(&mut self) -> Result<()> {
        for place in &self.options.recorded {
            let host = self.hosts.get(place).context("no such host")?;
            anyhow::ensure!(Tool::Tcpdump.is_there(), "tcpdump is not installed: apt install tcpdump");
            let file = self.ctx.folder().join(format!("{}.pcap", place.name()));
            // Another user would be one that a user namespace does not have.
            let flags = args!["-U", "-n", "-Z", "root", "-i", "eth0", "-w", &file];
            let running = self.ctx.spawn_tool(host, place.name(), Tool::Tcpdump, flags)?;
            clock::poll("tcpdump's file", Deadline::after(PATIENCE), || {
                Ok(fs::metadata(&file).ok().filter(|file| file.len() >= PCAP_HEADER).map(drop))
            })
            .with_context(|| running.last_words())?;
            self.recordings.push(running);
        }
        Ok(())
    }

    /// A script for each host that leads into it from another terminal.
    fn write_doors(&self) -> Result<()> {
        let absolute =
            |path: &Path| fs::canonicalize(path).with_context(|| format!("looking for {}", path.display()));
        let (programs, folder) = (absolute(&self.programs)?, absolute(self.ctx.folder())?);
        for (place, host) in &self.hosts {
            let name = place.name();
            let network = host.network.as_ref().context("a host of this machine")?;
            let script = format!(
                "#!/bin/sh\n\
                 # Leads into host {name} of a lab that runs: a shell, or the command behind it.\n\
                 inside=$(cat /proc/{pid}/task/{pid}/children) || {{ echo 'this lab has ended' >&2; exit 1; }}\n\
                 export PATH='{programs}':\"$PATH\" FARCALL_PEER_SIGNALING='{signaling}' FARCALL_LAB_HOST={name}\n\
                 export FARCALL_PEER_CA='{folder}/relay-cert.pem' FARCALL_PEER_HOME='{folder}/{name}.home'\n\
                 [ $# -gt 0 ] || set -- \"${{SHELL:-/bin/sh}}\"\n\
                 exec nsenter {user}--mount --pid --target ${{inside%% *}} nsenter --net={network} -- \"$@\"\n",
                pid = rights::outer_process()?,
                user = if rights::in_user_namespace() { "--user --preserve-credentials " } else { "" },
                signaling = self.signaling.url(),
                network = network.path(),
                programs = programs.display(),
                folder = folder.display(),
            );
            let door = folder.join(name);
            fs::write(&door, script).with_context(|| format!("writing {}", door.display()))?;
            fs::set_permissions(&door, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }
}

/// What stands before the packets of a recording.
const PCAP_HEADER: u64 = 24;

fn attach(
    internet: &mut Internet,
    routers: &mut Vec<Router>,
    name: &str,
    nat: Option<Nat>,
    number: u8,
) -> Result<Host> {
    let Some(nat) = nat else { return internet.attach_host(name) };
    let mut router = internet.attach_router(name, nat, number)?;
    let (host, _) = router.attach_host()?;
    routers.push(router);
    Ok(host)
}

fn start_relay(ctx: &Context, server: &Server) -> Result<Relay> {
    let (ip, second) = (server.first.v4, server.second.v4);
    let certificate =
        rcgen::generate_simple_self_signed(vec![ip.to_string()]).context("making a certificate")?;
    let (cert, key) = (ctx.folder().join("relay-cert.pem"), ctx.folder().join("relay-key.pem"));
    fs::write(&cert, certificate.cert.pem())?;
    fs::write(&key, certificate.signing_key.serialize_pem())?;
    let user = format!("{}:{}", relay::USER.0, relay::USER.1);
    let mut flags = args!["--auth-secret", relay::SECRET, "--user", user, "--unauthenticated-rate", "0"];
    flags.extend(args!["--alternate-listen", format!("{second}:3479")]);
    flags.extend(args!["--tls-listen", format!("{ip}:443"), "--tls-cert", cert, "--tls-key", key]);
    Relay::listen(ctx, &server.host, &format!("{ip}:3478"), &flags)
}

fn words(traits: Traits) -> String {
    let Traits { delay, jitter, loss, reordering, duplication, rate } = traits;
    let share = |what: &str, share: u16| (share > 0).then(|| format!("{}% {what}", f64::from(share) / 10.0));
    let time = |what: &str, time: std::time::Duration| (!time.is_zero()).then(|| format!("{time:?} {what}"));
    let rate = rate.map(|rate| format!("{} kbit/s", rate.bits_per_second / 1000));
    let words = [
        time("delay", delay),
        time("jitter", jitter),
        share("loss", loss),
        share("reordered", reordering),
        share("doubled", duplication),
        rate,
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
