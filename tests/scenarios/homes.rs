//! What people live through between their homes: the calls that the lab's names stand for. The router in the middle and the relay say by which way a call went.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::browser::{Browsers, Page, Setup};
use crate::host::Host;
use crate::lab::internet::{Attachment, Server};
use crate::lab::{Internet, Nat, Router, rights};
use crate::peer::{Call, Peer};
use crate::relay::{self, Direction, Relay};
use crate::signaling::Signaling;
use crate::{Context, Evidence, args};

/// An internet with servers, and a home on either side.
pub(super) struct Town {
    pub(super) internet: Internet,
    pub(super) server: Server,
    /// In use, and one more that a scenario may ask for.
    pub(super) relays: Vec<Relay>,
    pub(super) signaling: Signaling,
    pub(super) signaling_flags: Vec<OsString>,
    routers: Vec<Router>,
    /// Of the left host, to whatever router it is at.
    cable: Attachment,
    pub(super) left: Host,
    pub(super) right: Host,
}

/// Where the relay and signaling are.
const TURN: u16 = 3478;
const TURN_TLS: u16 = 443;

impl Town {
    /// Homes behind `left` and `right`, which speak nothing but IPv4, since IPv6 needs no translator.
    fn build(ctx: &Context, [left, right]: [Nat; 2]) -> Result<Self> {
        Self::build_with(ctx, [left, right], 1)
    }

    pub(super) fn build_with(ctx: &Context, nats: [Nat; 2], relays: u16) -> Result<Self> {
        rights::check()?;
        let mut internet = Internet::new()?;
        let server = internet.attach_server("server")?;
        let mut routers = Vec::new();
        let mut hosts = Vec::new();
        for ((name, nat), number) in ["left", "right"].into_iter().zip(nats).zip(1..) {
            let mut router = internet.attach_router(name, nat, number)?;
            let (host, cable) = router.attach_host()?;
            without_ipv6(&host)?;
            routers.push(router);
            hosts.push((host, cable));
        }
        let (Some((right, _)), Some((left, cable))) = (hosts.pop(), hosts.pop()) else {
            anyhow::bail!("two homes have two hosts")
        };
        let mut flags = args!["--turn-secret", relay::SECRET];
        let mut running = Vec::new();
        for number in 0..relays {
            let relay = start_relay(ctx, &server, number, &format!("relay{number}"))?;
            if number == 0 {
                flags.extend(args!["--stun", relay.stun_uri()]);
            }
            flags.extend(args!["--turn", relay.turn_uri(), "--turn", relay.turn_tcp_uri()]);
            flags.extend(args!["--turn", relay.turn_tls_uri()?]);
            running.push(relay);
        }
        let place = signaling_place(&server);
        // A port that even strict firewalls let through.
        let signaling = Signaling::listen(ctx, &place, "signaling", &format!("{}:80", place.ip), &flags)?;
        let relays = running;
        Ok(Self { internet, server, relays, signaling, signaling_flags: flags, routers, cable, left, right })
    }

    /// Where signaling runs.
    pub(super) fn signaling_place(&self) -> Host {
        signaling_place(&self.server)
    }

    fn relay(&self) -> Result<&Relay> {
        self.relays.first().context("no relay")
    }

    /// Those of the left home and of the right one.
    pub(super) fn router(&mut self, index: usize) -> Result<&mut Router> {
        self.routers.get_mut(index).context("no such router")
    }

    /// The left host goes to another home.
    pub(super) fn roam(&mut self) -> Result<()> {
        let nat = self.router(0)?.nat();
        let mut next = self.internet.attach_router("next", nat, 3)?;
        self.cable = next.take_in(&self.left, &self.cable)?;
        self.routers.push(next);
        without_ipv6(&self.left)
    }

    pub(super) fn call(&self, ctx: &Context, host: &Host, call: Call) -> Result<Peer> {
        Peer::call(ctx, host, &self.signaling.url(), call)
    }
}

fn signaling_place(server: &Server) -> Host {
    Host { ip: server.second.v4.into(), ..server.host.clone() }
}

/// A relay at a port of its own, so that a second one can stand beside the first.
pub(super) fn start_relay(ctx: &Context, server: &Server, number: u16, name: &str) -> Result<Relay> {
    let ip = server.first.v4;
    let names = vec![ip.to_string()];
    let certificate = rcgen::generate_simple_self_signed(names).context("making a certificate")?;
    let folder = ctx.folder();
    std::fs::create_dir_all(folder)?;
    let (cert, key) =
        (folder.join(format!("relay{number}-cert.pem")), folder.join(format!("relay{number}-key.pem")));
    std::fs::write(&cert, certificate.cert.pem())?;
    std::fs::write(&key, certificate.signing_key.serialize_pem())?;
    let tls = format!("{ip}:{}", TURN_TLS + number);
    let mut extra = args!["--auth-secret", relay::SECRET, "--unauthenticated-rate", "0"];
    extra.extend(args!["--tls-listen", tls, "--tls-cert", cert, "--tls-key", key]);
    Relay::listen_as(ctx, &server.host, name, &format!("{ip}:{}", TURN + number), &extra)
}

fn without_ipv6(host: &Host) -> Result<()> {
    let network = host.network.as_ref().context("a host of this machine")?;
    network.set("ipv6/conf/eth0/disable_ipv6", "1")
}

/// Two people in one house: what they show each other does not leave it.
pub(super) fn one_home(ctx: &Context) -> Result<Evidence> {
    let mut town = Town::build(ctx, [Nat::PORT_RESTRICTED, Nat::PORT_RESTRICTED])?;
    let (sister, _) = town.router(0)?.attach_host()?;
    let alice = town.call(ctx, &town.left, Call::new("left"))?;
    alice.joined()?;
    let mut bob = town.call(ctx, &sister, Call::new("sister").lasting(CALL))?;
    let connected = bob.connected()?;
    bob.first_frame("video")?;
    alice.first_frame("video")?;
    let before = town.internet.witness()?;
    bob.say("in the same room")?;
    alice.hears("in the same room")?;
    let stats = bob.ends_well()?;
    let received = stats.video.context("no video stats")?.bytes_received;
    let seen = town.internet.witness()?.since(&before);
    let outside = seen.between("left", "server", "udp").bytes + seen.between("left", "right", "udp").bytes;
    ensure!(received > 20_000, "only {received} bytes of video arrived");
    ensure!(outside < 5_000, "{outside} bytes left the house, while {received} of video arrived");
    Ok(Evidence::new().connected(&connected).fact(format!(
        "{received} bytes of video arrived, while {outside} bytes of UDP crossed the line to the street"
    )))
}

/// UDP is impossible in one home: TURN over TCP, and where only port 443 is open, TURN over TLS.
pub(super) fn without_udp(ctx: &Context) -> Result<Evidence> {
    let mut evidence = Evidence::new();
    for (name, protocol) in [("udpblocked", "tcp"), ("portrestricted+web", "tls")] {
        let ctx = ctx.in_folder(ctx.folder().join(name));
        let town = Town::build(&ctx, [name.parse()?, Nat::PORT_RESTRICTED])?;
        let trusted = ctx.folder().join("relay0-cert.pem");
        let alice = town.call(&ctx, &town.right, Call::new("right"))?;
        alice.joined()?;
        let mut bob = town.call(&ctx, &town.left, Call::new("left").trusting(trusted).lasting(CALL))?;
        let connected = bob.connected()?;
        alice.first_frame("video")?;
        bob.first_frame("video")?;
        let forwarded = town.relay()?.forwarded(Direction::ToClient)?.bytes;
        let stats = bob.ends_well()?;
        let video = stats.video.context("no video stats")?.bytes_received;
        let seen = town.internet.witness()?;
        let udp =
            seen.between("left", "server", "udp").packets + seen.between("left", "right", "udp").packets;
        let tcp = seen.between("left", "server", "tcp").bytes;
        ensure!(udp == 0, "{udp} datagrams passed a home without UDP");
        ensure!(tcp > video, "{tcp} bytes went by the server, and {video} of video arrived");
        ensure!(forwarded > 0, "the relay forwarded nothing");
        let spoken = &stats.path.as_ref().unwrap_or(&connected.path).protocol;
        ensure!(
            [protocol, "udp"].contains(&spoken.as_str()),
            "the path is {} where {protocol} was expected",
            connected.path
        );
        evidence = evidence.fact(format!(
            "{name}: {} after {:.0} ms; the relay forwarded {forwarded} bytes and the home sent no datagram",
            connected.path, connected.elapsed_ms
        ));
    }
    Ok(evidence)
}

/// Long enough for some pictures.
const CALL: Duration = Duration::from_secs(4);

/// A browser in one home.
fn open(ctx: &Context, town: &Town, host: &Host, name: &'static str) -> Result<(Browsers, Page)> {
    let url = town.signaling.url();
    let browsers = Browsers::start_at(ctx, host, &format!("driver-{name}"))?;
    // The page asks for a camera, which browsers allow on localhost and over TLS alone.
    let secure = format!("--unsafely-treat-insecure-origin-as-secure={url}");
    let setup = Setup::named(name).switch(&secure);
    let page = browsers.open(&setup, &format!("{url}/?key=room&name={name}"))?;
    Ok((browsers, page))
}

/// Two browsers in two homes whose routers let them meet: no server sees their media.
pub(super) fn two_browsers(ctx: &Context) -> Result<Evidence> {
    let town = Town::build(ctx, [Nat::PORT_RESTRICTED, Nat::RESTRICTED])?;
    let (_left_driver, left) = open(ctx, &town, &town.left, "ada")?;
    left.status_is("Waiting")?;
    let (_right_driver, right) = open(ctx, &town, &town.right, "bob")?;
    right.status_is("Ready for call")?;
    right.click("call")?;
    left.status_is("On call")?;
    right.status_is("On call")?;
    left.sees(10)?;
    let before = (town.internet.witness()?, town.relay()?.forwarded(Direction::ToClient)?);
    let frames = (left.sees(20)?, right.sees(20)?);
    let seen = town.internet.witness()?.since(&before.0);
    let relayed = town.relay()?.forwarded(Direction::ToClient)?.datagrams - before.1.datagrams;
    let direct = seen.between("left", "right", "udp");
    let served = seen.between("left", "server", "udp").bytes + seen.between("right", "server", "udp").bytes;
    ensure!(direct.bytes > 10_000, "only {} bytes went from home to home", direct.bytes);
    ensure!(served < direct.bytes / 10, "{served} bytes went by the server, {} directly", direct.bytes);
    ensure!(relayed == 0, "the relay forwarded {relayed} datagrams");
    Ok(Evidence { frames: Some(frames), ..Evidence::new() }
        .fact(format!("{} bytes went from home to home while the relay forwarded nothing", direct.bytes)))
}

/// A browser in one home and `farcall-peer` in another, where only the relay helps.
pub(super) fn browser_and_peer(ctx: &Context) -> Result<Evidence> {
    let mut evidence = Evidence::new();
    for (name, nats) in [
        ("symmetric", [Nat::SYMMETRIC, Nat::SYMMETRIC]),
        ("udpblocked", [Nat::UDP_BLOCKED, Nat::PORT_RESTRICTED]),
    ] {
        let ctx = ctx.in_folder(ctx.folder().join(name));
        let town = Town::build(&ctx, nats)?;
        let (_driver, page) = open(&ctx, &town, &town.left, "ada")?;
        page.status_is("Waiting")?;
        let peer = town.call(&ctx, &town.right, Call::new("right"))?;
        let connected = peer.connected()?;
        page.status_is("On call")?;
        page.sees(5)?;
        let (relay, before) = (town.relay()?, town.internet.witness()?);
        let forwarded = relay.forwarded(Direction::ToClient)?;
        let after = relay.forwards_on(forwarded, 100)?;
        let frames = page.sees(10)?;
        peer.first_frame("video")?;
        let direct = town.internet.witness()?.since(&before).between("left", "right", "udp").packets;
        // Checks of a pair that leads nowhere may go on.
        ensure!(direct < 100, "{direct} datagrams went from home to home");
        evidence = evidence.fact(format!(
            "{name}: {} after {:.0} ms; the relay counted {} datagrams, the page {frames} frames",
            connected.path, connected.elapsed_ms, after.datagrams
        ));
    }
    Ok(evidence)
}
