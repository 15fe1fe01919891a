//! What goes wrong with a network during a call, in the lab: the call comes back by itself, and nothing said is lost.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::clock::{self, Deadline, PATIENCE};
use crate::host::Host;
use crate::lab::internet::Attachment;
use crate::lab::{Internet, Nat, Router, rights};
use crate::peer::{Call, Peer};
use crate::relay::{self, Relay};
use crate::signaling::Signaling;
use crate::{Context, Evidence, args};

/// A fault, and what undoes it where that is part of it.
struct Fault {
    name: &'static str,
    strike: fn(&mut Home) -> Result<()>,
}

const FAULTS: [Fault; 5] = [
    Fault { name: "rebinding", strike: |home| home.router.rebind() },
    Fault { name: "another address", strike: |home| home.router.renumber() },
    Fault { name: "roaming", strike: Home::roam },
    Fault { name: "cable out for 5 s", strike: |home| cable_out(home.router.wan()) },
    Fault { name: "one in ten lost", strike: |home| home.router.wan().lose(100) },
];

/// Where one of the two is, and where it may go.
struct Home {
    router: Router,
    host: Host,
    cable: Attachment,
    next: Router,
}

impl Home {
    fn build(internet: &mut Internet, number: u8) -> Result<Self> {
        let mut router = internet.attach_router(&format!("home{number}"), Nat::PORT_RESTRICTED, number)?;
        let next = internet.attach_router(&format!("next{number}"), Nat::PORT_RESTRICTED, 100 + number)?;
        let (host, cable) = router.attach_host()?;
        Ok(Self { router, host, cable, next })
    }

    fn roam(&mut self) -> Result<()> {
        self.cable = self.next.take_in(&self.host, &self.cable)?;
        Ok(())
    }
}

pub(super) fn cable_out(cable: &Attachment) -> Result<()> {
    cable.cut()?;
    let back = Deadline::after(OUTAGE);
    // The length of the outage is the fault.
    clock::poll("the end of the outage", Deadline::after(OUTAGE + PATIENCE), || {
        Ok(back.passed().then_some(()))
    })?;
    cable.mend()
}

pub(super) const OUTAGE: Duration = Duration::from_secs(5);

/// Each fault strikes a call of its own, all at the same time.
pub(super) fn during_a_call(ctx: &Context) -> Result<Evidence> {
    rights::check()?;
    let mut internet = Internet::new()?;
    let server = internet.attach_server("server")?;
    let listen = format!("{}:3478", server.first.v4);
    let _relay = Relay::listen(ctx, &server.host, &listen, &args!["--auth-secret", relay::SECRET])?;
    let mut flags = args!["--stun", format!("stun:{listen}"), "--turn-secret", relay::SECRET];
    flags.extend(args!["--turn", format!("turn:{listen}?transport=udp")]);
    let signaling = Signaling::start(ctx, &server.host, &flags)?;
    let mut calls = Vec::new();
    for (fault, number) in FAULTS.iter().zip(1u8..) {
        let home = Home::build(&mut internet, number)?;
        let mut other =
            internet.attach_router(&format!("other{number}"), Nat::PORT_RESTRICTED, 50 + number)?;
        let (host, _) = other.attach_host()?;
        calls.push((fault, home, other, host));
    }
    let results = Mutex::new(Vec::new());
    let url = signaling.url();
    std::thread::scope(|scope| {
        for (fault, mut home, other, host) in calls {
            let (results, url) = (&results, &url);
            scope.spawn(move || {
                let result = struck(ctx, url, fault, &mut home, &host);
                drop(other);
                results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((fault.name, result));
            });
        }
    });
    let mut evidence = Evidence::new();
    let results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for fault in FAULTS {
        let (_, result) =
            results.iter().find(|(name, _)| *name == fault.name).context("a call without a result")?;
        match result {
            Ok(gap) => evidence = evidence.fact(format!("{}: back after {} ms", fault.name, gap.as_millis())),
            Err(error) => anyhow::bail!("{}: {error:#}", fault.name),
        }
    }
    Ok(evidence
        .fact("every line of text that was said before, during and after it arrived, once and in order"))
}

/// How long after the fault both hear each other again.
fn struck(ctx: &Context, url: &str, fault: &Fault, home: &mut Home, host: &Host) -> Result<Duration> {
    let room = fault.name.replace(' ', "-");
    let call = |side: &str| Call::new(&format!("{room}-{side}")).in_room(&room);
    let mut steady = Peer::call(ctx, host, url, call("steady"))?;
    steady.joined()?;
    let mut struck = Peer::call(ctx, &home.host, url, call("struck").at_every_address())?;
    for peer in [&steady, &struck] {
        peer.channel_open()?;
        peer.first_frame("video")?;
    }
    let mut said = 0;
    let mut talk = |steady: &mut Peer, struck: &mut Peer, lines: usize| -> Result<()> {
        for _ in 0..lines {
            said += 1;
            steady.say(&format!("steady {said}"))?;
            struck.say(&format!("struck {said}"))?;
        }
        Ok(())
    };
    talk(&mut steady, &mut struck, 20)?;
    steady.hears("struck 20")?;
    struck.hears("steady 20")?;
    let at = clock::now();
    (fault.strike)(home)?;
    talk(&mut steady, &mut struck, 20)?;
    let heard = |peer: &Peer, line: &str| {
        clock::poll(&format!("\"{line}\" at {}", peer.process.name()), Deadline::after(RECOVERY), || {
            Ok(peer.texts()?.iter().any(|text| text == line).then_some(()))
        })
    };
    heard(&steady, "struck 40")?;
    heard(&struck, "steady 40")?;
    let gap = clock::now().duration_since(at);
    for (peer, other) in [(&steady, "struck"), (&struck, "steady")] {
        let wanted: Vec<String> = (1..=40).map(|number| format!("{other} {number}")).collect();
        anyhow::ensure!(peer.texts()? == wanted, "{} heard {:?}", peer.process.name(), peer.texts()?);
    }
    Ok(gap)
}

/// Noticing takes ICE three seconds where nobody tells it, and a restart one or two more.
const RECOVERY: Duration = Duration::from_secs(40);
