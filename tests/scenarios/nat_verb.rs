//! What `farcall-peer nat` says of a network, held against what the lab has made the network be.

use anyhow::{Context as _, Result, bail, ensure};

use crate::clock::{Deadline, PATIENCE};
use crate::event::EventKind;
use crate::host::Host;
use crate::lab::nat::Dependence::{self, AddressAndPortDependent, AddressDependent, EndpointIndependent};
use crate::lab::nat::Outbound;
use crate::lab::{Internet, Nat, Router, rights};
use crate::peer::Peer;
use crate::relay::{self, Relay};
use crate::{Context, Evidence, args};

/// All kinds there are, a carrier before a home, and none: each with the relay for a STUN server of two addresses.
pub(super) fn behind_each(ctx: &Context) -> Result<Evidence> {
    rights::check()?;
    let mut internet = Internet::new()?;
    let server = internet.attach_server("server")?;
    let (listen, alternate) = (format!("{}:3478", server.first.v4), format!("{}:3479", server.second.v4));
    let extra = args!["--auth-secret", relay::SECRET, "--alternate-listen", alternate];
    let _relay = Relay::listen(ctx, &server.host, &listen, &extra)?;

    let places = places(&mut internet)?;
    let uri = format!("stun:{listen}");
    // Whoever waits for answers that are filtered out waits for seconds: all at once, then.
    let asked = places.iter().map(|place| {
        let mut args = args!["--json", "--bind", place.host.ip.to_string()];
        args.extend(args!["nat", "--stun", &uri]);
        Ok(Peer { process: ctx.spawn(&place.host, &place.name, "farcall-peer", args)? })
    });
    let asked = asked.collect::<Result<Vec<_>>>()?;
    let mut evidence = Evidence::new();
    let mut wrong = Vec::new();
    for (place, mut peer) in places.iter().zip(asked) {
        match place.hold_against(&mut peer) {
            Ok(said) => evidence = evidence.fact(format!("{}: {said}", place.name)),
            Err(error) => wrong.push(format!("{}: {error:#}", place.name)),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(evidence)
}

/// A host, and what lies between it and the internet.
struct Place {
    name: String,
    host: Host,
    /// Its address as others should see it.
    outer: String,
    truth: Truth,
    /// Without them the host would be cut off.
    _routers: Vec<Router>,
}

#[derive(Debug, Clone, Copy)]
enum Truth {
    Open,
    NoUdp,
    Translated { mapping: Dependence, filtering: Dependence },
}

fn places(internet: &mut Internet) -> Result<Vec<Place>> {
    let mut nats = vec![("linux".to_owned(), Nat::LINUX), ("udp-blocked".to_owned(), Nat::UDP_BLOCKED)];
    for mapping in DEPENDENCES {
        for filtering in DEPENDENCES {
            let name = format!("{}-{}", short(mapping), short(filtering));
            nats.push((name, Nat::behaved(mapping, filtering)));
        }
    }
    let mut places = Vec::new();
    for ((name, nat), number) in nats.into_iter().zip(1..) {
        let mut router = internet.attach_router(&name, nat, number)?;
        let (host, _) = router.attach_host()?;
        let outer = internet.link(&name)?.addresses.v4.to_string();
        let (mapping, filtering) = nat.behaviour();
        let truth = match nat.outbound {
            Outbound::Everything => Truth::Translated { mapping, filtering },
            Outbound::NoUdp | Outbound::WebPorts | Outbound::TlsOnly => Truth::NoUdp,
        };
        places.push(Place { name, host, outer, truth, _routers: vec![router] });
    }
    // Of two translators in a row the stricter one counts.
    let mut carrier = internet.attach_carrier("carrier", Nat::SYMMETRIC, 1)?;
    let mut home = carrier.attach_router(Nat::FULL_CONE, 1)?;
    let (host, _) = home.attach_host()?;
    places.push(Place {
        name: "carrier".to_owned(),
        host,
        outer: internet.link("carrier")?.addresses.v4.to_string(),
        truth: Truth::Translated { mapping: AddressAndPortDependent, filtering: AddressAndPortDependent },
        _routers: vec![carrier, home],
    });
    let host = internet.attach_host("public")?;
    let outer = host.ip.to_string();
    places.push(Place { name: "public".to_owned(), host, outer, truth: Truth::Open, _routers: Vec::new() });
    Ok(places)
}

impl Place {
    /// Fails if what was said is not so; else returns it.
    fn hold_against(&self, peer: &mut Peer) -> Result<String> {
        let (mapping, filtering, is_translated, words) = match self.truth {
            Truth::NoUdp => return Ok(peer.fails("UNREACHABLE", 69)?.message),
            Truth::Open => (EndpointIndependent, EndpointIndependent, false, "No address translation"),
            Truth::Translated { mapping: EndpointIndependent, filtering } => {
                (EndpointIndependent, filtering, true, "Behind a translator that keeps one address")
            }
            Truth::Translated { mapping, filtering } => {
                (mapping, filtering, true, "Behind a symmetric translator")
            }
        };
        let code = peer.process.exit_code(Deadline::after(PATIENCE))?;
        ensure!(code == 0, "it ended with exit code {code}. {}", peer.process.last_words());
        let said = peer.said(|event| if let EventKind::Nat(said) = event { Some(said) } else { None })?;
        let [said] = said.as_slice() else { bail!("it spoke {} times", said.len()) };
        let found = (said.mapping.as_deref(), said.filtering.as_deref(), said.translated);
        let truth = (Some(wire_name(mapping)), Some(wire_name(filtering)), is_translated);
        ensure!(found == truth, "it says {found:?} where {truth:?} is so");
        ensure!(said.words.starts_with(words), "it is {truth:?}, but the words are: {}", said.words);
        let (mapped, _) = said.mapped.rsplit_once(':').context("an address without a port")?;
        ensure!(mapped == self.outer, "it is seen as {}, not as {mapped}", self.outer);
        ensure!(said.local.starts_with(&format!("{}:", self.host.ip)), "its own address is {}", said.local);
        Ok(format!("{} mapping, {} filtering", wire_name(mapping), wire_name(filtering)))
    }
}

/// What the peer calls it.
const fn wire_name(dependence: Dependence) -> &'static str {
    match dependence {
        EndpointIndependent => "endpoint-independent",
        AddressDependent => "address-dependent",
        AddressAndPortDependent => "address-and-port-dependent",
    }
}

const fn short(dependence: Dependence) -> &'static str {
    match dependence {
        EndpointIndependent => "ei",
        AddressDependent => "ad",
        AddressAndPortDependent => "apd",
    }
}

const DEPENDENCES: [Dependence; 3] = [EndpointIndependent, AddressDependent, AddressAndPortDependent];
