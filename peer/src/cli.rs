//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::failure::{Failure, Reason};
use crate::forward::{self, Rule};
use crate::identity::{KeyError, PublicKey};
use crate::media::{Source, Tones};
use crate::net::{IcePolicy, Trust};
use crate::session::OfferPolicy;

/// A headless WebRTC agent: meets another one in a room and calls it.
#[derive(Debug, Parser)]
#[command(name = "farcall-peer", version)]
pub struct Cli {
    /// What all verbs share.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of all verbs.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// The signaling server.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "FARCALL_PEER_SIGNALING",
        default_value = Self::SIGNALING
    )]
    pub signaling: String,
    /// A bearer token, where the signaling server wants one.
    #[arg(long, global = true, env = "FARCALL_PEER_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// File with the authorities in PEM that certificates must come from, of signaling and of turns: servers alike,
    /// instead of the usual ones.
    #[arg(long, global = true, value_name = "FILE", env = "FARCALL_PEER_CA")]
    pub ca: Option<PathBuf>,
    /// Print events as JSON, one object per line on stdout.
    #[arg(long, global = true)]
    pub json: bool,
    /// Which paths are acceptable.
    #[arg(long, global = true, value_enum, default_value = "all")]
    pub ice_policy: IcePolicyArg,
    /// Ask no STUN server.
    #[arg(long, global = true)]
    pub no_stun: bool,
    /// Ask no TURN server.
    #[arg(long, global = true)]
    pub no_turn: bool,
    /// Use this local address and no other; may be repeated.
    #[arg(long, global = true, value_name = "IP")]
    pub bind: Vec<IpAddr>,
    /// File with the private key that proves who this side is, or `none`; without this the one that `farcall-peer
    /// identity` made, if it did.
    #[arg(long, global = true, value_name = "FILE", env = "FARCALL_PEER_IDENTITY")]
    pub identity: Option<PathBuf>,
    /// Talk to whoever has this key and nobody else; may be repeated. Or to whoever was `known` first in a room, or to
    /// `anybody`.
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        env = "FARCALL_PEER_TRUST",
        value_delimiter = ',',
        default_value = "known"
    )]
    pub trust: Vec<TrustArg>,
}

/// Whom to talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustArg {
    /// Whoever has this key.
    Key(PublicKey),
    /// In each room whoever was met there first.
    Known,
    /// Whoever is in the room.
    Anybody,
}

impl TrustArg {
    pub(crate) fn key(&self) -> Option<PublicKey> {
        match self {
            Self::Key(key) => Some(*key),
            Self::Known | Self::Anybody => None,
        }
    }
}

impl FromStr for TrustArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "known" => Ok(Self::Known),
            "anybody" => Ok(Self::Anybody),
            key => key.parse().map(Self::Key).map_err(|error: KeyError| error.to_string()),
        }
    }
}

/// Which paths are acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IcePolicyArg {
    /// Direct ones, and relayed ones where no direct one works.
    All,
    /// Relayed ones alone.
    Relay,
}

impl Common {
    /// The server of those who do not name one.
    pub(crate) const SIGNALING: &str = "http://127.0.0.1:8080";

    pub(crate) fn authorities(&self) -> Result<Trust, Failure> {
        Trust::of(self.ca.as_deref()).map_err(|error| Failure::new(Reason::BadUsage, error.to_string()))
    }

    pub(crate) fn policy(&self) -> IcePolicy {
        IcePolicy {
            relay_only: self.ice_policy == IcePolicyArg::Relay,
            stun: !self.no_stun,
            turn: !self.no_turn,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Call whoever else is in the room, or wait for them.
    Call(Call),
    /// Print the candidates that can be found from here.
    Candidates(Candidates),
    /// Measure the throughput of a data channel; one side sends, the other receives.
    Bench(Bench),
    /// Send files and folders to somebody who receives.
    Send(Send),
    /// Receive what somebody sends.
    Receive(Receive),
    /// Carry stdin to the other side's stdout, and the other way round.
    Pipe(Pipe),
    /// Make ports of one side reachable at the other.
    Forward(Forward),
    /// Send back whatever comes.
    Echo(Joining),
    /// Tell how the network that this machine is in treats UDP.
    Nat(Nat),
    /// Check that the servers which a call needs can be reached, and tell what to do if not.
    Doctor(Doctor),
    /// Print who this side is, for others to trust; the first time, become somebody.
    Identity,
    /// Print whom this side knows, and in which rooms; or forget somebody.
    Known(Known),
    /// Print what a shell needs to complete the words of this program.
    Completions(Completions),
    /// Write manual pages, one for each verb.
    Man(Man),
}

/// Flags of `known`.
#[derive(Debug, Clone, Args)]
pub struct Known {
    /// Whoever comes first to this room may be somebody else from now on.
    #[arg(long, value_name = "ROOM")]
    pub forget: Option<String>,
}

/// Flags of those who join a room.
#[derive(Debug, Clone, Args)]
pub struct Joining {
    /// The room key, which both sides must know, or the code that the other side made. Without it, a code is made here.
    pub room: Option<String>,
    /// How.
    #[command(flatten)]
    pub manner: Manner,
}

/// How to meet somebody.
#[derive(Debug, Clone, Args)]
pub struct Manner {
    /// Who makes the first offer.
    #[arg(long, value_enum, default_value = "auto")]
    pub offer: OfferArg,
    /// What the other side is shown.
    #[arg(long, default_value = "")]
    pub name: String,
    /// Tell every so often what the connection has carried.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub stats: Option<Duration>,
    /// Give up when no connection is up this long after both are in the room.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "20s")]
    pub connect_timeout: Duration,
}

/// Who makes the first offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OfferArg {
    /// The one who joined later.
    Auto,
    /// This side, whatever the other does.
    Always,
}

impl From<OfferArg> for OfferPolicy {
    fn from(offer: OfferArg) -> Self {
        match offer {
            OfferArg::Auto => Self::Auto,
            OfferArg::Always => Self::Always,
        }
    }
}

/// Flags of `call`.
#[derive(Debug, Clone, Args)]
pub struct Call {
    /// Where and with whom.
    #[command(flatten)]
    pub joining: Joining,
    /// Pictures to send: a file with VP8 or VP9 (IVF) or H.264 (Annex B), over and over; `test` for the clip that is part
    /// of this program, `live` for a test pattern with a clock, or `none`.
    #[arg(long, value_name = "SOURCE", default_value = "test")]
    pub video: Source,
    /// Sound to send: a file with Opus (Ogg) or WAV, over and over; `test`, `live` for a beep each second, or `none`.
    #[arg(long, value_name = "SOURCE", default_value = "test")]
    pub audio: Source,
    /// Record what comes into this directory.
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,
    /// Press these keys of a telephone once the call is up: 0-9, *, #, A-D, and a comma for a pause of two seconds.
    #[arg(long, value_name = "TONES")]
    pub dtmf: Option<Tones>,
    /// Take lines on stdin that begin with a slash as commands, as is done where stdin is a terminal: `/video SOURCE` and
    /// `/audio SOURCE` change what is sent, `none` ends it; `/dtmf TONES`; `/hangup`. Two slashes begin a text with one.
    #[arg(long)]
    pub commands: bool,
    /// Go on when a call cannot be made, or the other side is not trusted: somebody else may call.
    #[arg(long)]
    pub unattended: bool,
    /// Hang up this long after the call began.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
}

/// Flags of `candidates`.
#[derive(Debug, Clone, Args)]
pub struct Candidates {
    /// A STUN server, such as stun:stun.example:3478; may be repeated.
    #[arg(long, value_name = "URI")]
    pub stun: Vec<String>,
    /// A TURN server, such as turn:turn.example:3478; may be repeated.
    #[arg(long, value_name = "URI")]
    pub turn: Vec<String>,
    /// The username for the TURN servers.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub turn_user: String,
    /// The password for the TURN servers.
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "FARCALL_PEER_TURN_PASSWORD",
        hide_env_values = true,
        default_value = ""
    )]
    pub turn_password: String,
    /// Stop gathering after this time.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub timeout: Duration,
}

/// Flags of `bench`.
#[derive(Debug, Clone, Args)]
pub struct Bench {
    /// Where and with whom.
    #[command(flatten)]
    pub joining: Joining,
    /// Send this much, such as 64MiB; without it this side receives.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub send: Option<u64>,
    /// Hold this many connections at once instead, in the rooms ROOM-1, ROOM-2 and so on, and tell at the end what an idle
    /// one costs.
    #[arg(long, value_name = "NUMBER", conflicts_with = "send", requires = "room", value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: Option<u32>,
}

/// Flags of `send`.
#[derive(Debug, Clone, Args)]
pub struct Send {
    /// Files, and folders with everything in them.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The room key, which both sides must know, or the code that the other side made. Without it, a code is made here.
    #[arg(long, value_name = "ROOM", env = "FARCALL_PEER_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// How to meet.
    #[command(flatten)]
    pub manner: Manner,
}

/// Flags of `receive`.
#[derive(Debug, Clone, Args)]
pub struct Receive {
    /// The code that the other side made.
    #[arg(conflicts_with = "key")]
    pub code: Option<String>,
    /// The room key, which both sides must know. Without it and a code, a code is made here.
    #[arg(long, value_name = "ROOM", env = "FARCALL_PEER_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// The folder to receive into; it is made if it is not there.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub to: PathBuf,
    /// Replace files that are there already. Without this nothing is transferred if there is one.
    #[arg(long, conflicts_with = "rename")]
    pub overwrite: bool,
    /// Give files a number where there is one already.
    #[arg(long)]
    pub rename: bool,
    /// Stay when everything is there, and receive from whoever comes next. A code is for one meeting, so this takes a key.
    #[arg(long, requires = "key")]
    pub keep: bool,
    /// How to meet.
    #[command(flatten)]
    pub manner: Manner,
}

/// Flags of `pipe`.
#[derive(Debug, Clone, Args)]
pub struct Pipe {
    /// Where and with whom.
    #[command(flatten)]
    pub joining: Joining,
    /// Connect to this port, which the other side must allow with `forward --allow`.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) to: Option<forward::Target>,
}

/// Flags of `forward`.
#[derive(Debug, Clone, Args)]
pub struct Forward {
    /// Where and with whom.
    #[command(flatten)]
    pub joining: Joining,
    /// Listen here, and let the other side connect to HOST:HOSTPORT, as `ssh -L` does; with `udp:` in front for
    /// datagrams. May be repeated.
    #[arg(short = 'L', long, value_name = "[BIND:]PORT:HOST:HOSTPORT")]
    pub local: Vec<forward::Forward>,
    /// Let the other side listen, and connect from here to HOST:HOSTPORT, as `ssh -R` does. May be repeated.
    #[arg(short = 'R', long, value_name = "[BIND:]PORT:HOST:HOSTPORT")]
    pub remote: Vec<forward::Forward>,
    /// The other side may reach this through this side; `*` stands for any host or port. May be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    pub allow: Vec<Rule>,
    /// The other side may listen here at this side; `*` stands for any address or port. May be repeated.
    #[arg(long, value_name = "BIND:PORT")]
    pub allow_listen: Vec<Rule>,
}

/// Flags of `nat`.
#[derive(Debug, Clone, Args)]
pub struct Nat {
    /// A STUN server; one with a second address (RFC 5780) tells more.
    #[arg(long, value_name = "URI")]
    pub stun: String,
}

/// Flags of `doctor`.
#[derive(Debug, Clone, Args)]
pub struct Doctor {
    /// How to meet.
    #[command(flatten)]
    pub manner: Manner,
}

/// Flags of `completions`.
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// For which shell.
    pub shell: clap_complete::Shell,
}

/// Flags of `man`.
#[derive(Debug, Clone, Args)]
pub struct Man {
    /// The folder to write them into.
    pub folder: PathBuf,
}

/// A number with one of these units.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("", 1000)];
    with_unit(text, &units)
        .filter(|milliseconds| *milliseconds <= LONGEST)
        .map(Duration::from_millis)
        .ok_or_else(|| "a time is a number with ms, s, m or h, such as 90s".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    let units = [
        ("B", 1),
        ("", 1),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    with_unit(text, &units)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "a size is a number with KiB, MiB, GiB, KB, MB or GB, such as 64MiB".to_owned())
}

/// A year, so that adding it to any instant is no risk.
const LONGEST: u64 = 365 * 24 * 3_600_000;

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(
            (duration("2m"), duration("3")),
            (Ok(Duration::from_secs(120)), Ok(Duration::from_secs(3)))
        );
        assert_eq!((size("64MiB"), size("2KB"), size("7")), (Ok(64 << 20), Ok(2000), Ok(7)));
        for text in ["", "s", "-1s", "1.5s", "99999999999999999999s", "1d", "9999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(size("0").is_err() && size("1TB").is_err());
    }

    #[test]
    fn common_flags_may_come_after_the_verb() {
        let cli =
            Cli::try_parse_from(["farcall-peer", "call", "room", "--json", "--bind", "127.0.0.1"]).unwrap();
        assert!(cli.common.json && cli.common.bind.len() == 1);
    }
    #[test]
    fn the_units_start_what_there_is() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
        let units = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut keeps = 0;
        for unit in units.filter(|path| path.extension().is_some_and(|extension| extension == "service")) {
            let text = std::fs::read_to_string(&unit).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
            let line = line.replace("%i", "lobby").replace("${STATE_DIRECTORY}", "/var/lib/farcall");
            // What comes from the file of environment variables.
            let key = line.contains(" receive ").then_some("--key=secret");
            let cli = Cli::try_parse_from(line.split_whitespace().chain(key))
                .unwrap_or_else(|error| panic!("{}: {error}", unit.display()));
            assert!(cli.common.json, "journals are read by programs: {line}");
            keeps += usize::from(matches!(cli.verb, Verb::Receive(receive) if receive.keep));
        }
        assert_eq!(keeps, 1);
    }
}
