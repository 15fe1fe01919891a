//! The page when things are not as they should be.

use anyhow::{Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Pages, evidence};
use crate::browser::{Browsers, Page, Setup};
use crate::clock::{Deadline, PATIENCE, poll};
use crate::host::Host;
use crate::relay::{self, Relay};
use crate::stack::Stack;
use crate::{Context, Evidence, args};

pub(in super::super) fn third_page_refused(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let pages = Pages::meet(&stack, &browsers, "")?;
    let eve = stack.page(&browsers, &Setup::named("eve"), "key=room")?;
    eve.shows("notice", "Two people use this key already")?;
    eve.status_is("Disconnected")?;
    let frames = pages.see(20)?;
    pages.talk("Still two")?;
    pages.bob.leave()?;
    pages.ada.status_is("Waiting")?;
    eve.click("connect")?;
    for page in [&pages.ada, &eve] {
        page.status_is("Ready for call")?;
    }
    eve.is_clean(&[])?;
    Ok(evidence(frames)
        .fact("a third page is told that two people use the key, while the two go on with their call")
        .fact("when one of the two closed its page, the third took its place"))
}

pub(in super::super) fn signaling_killed(ctx: &Context) -> Result<Evidence> {
    let mut stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let pages = Pages::meet(&stack, &browsers, "")?;
    pages.see(10)?;
    stack.signaling.process.signal(Signal::KILL)?;
    for page in [&pages.ada, &pages.bob] {
        page.shows("notice", "the call goes on")?;
    }
    let meanwhile = pages.see(20)?;
    // This asks for a negotiation, which has to wait for a server.
    pages.ada.click("camera")?;
    pages.talk("Without a server")?;
    stack.restart_signaling(ctx, "signaling-again")?;
    for page in [&pages.ada, &pages.bob] {
        page.wait("the server again", "document.getElementById('notice').hidden")?;
    }
    pages.bob.shows("remote-note", "camera is off")?;
    pages.ada.click("camera")?;
    let frames = pages.see(20)?;
    pages.talk("Afterwards")?;
    for page in [&pages.ada, &pages.bob] {
        page.status_is("On call")?;
        page.is_clean(&["net::ERR_"])?;
    }
    Ok(evidence(frames)
        .fact(format!(
            "while signaling was dead, frames were decoded at both sides ({} and {} in all) and text went both ways",
            meanwhile.0, meanwhile.1
        ))
        .fact("what was to be negotiated meanwhile was negotiated when it was back; both pages found each other again"))
}

/// Nothing is left of the allocations, so the call needs new ones.
pub(in super::super) fn relay_restarted(ctx: &Context) -> Result<Evidence> {
    let mut stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let pages = Pages::meet(&stack, &browsers, "relay=1")?;
    let before = pages.see(20)?;
    stack.relay.process.signal(Signal::KILL)?;
    stack.relay.process.wait_exit(Deadline::after(PATIENCE))?;
    let address = stack.relay.udp.to_string();
    let flags = args!["--auth-secret", relay::SECRET];
    stack.relay = Relay::listen_as(ctx, &Host::local(), "relay-again", &address, &flags)?;
    let relay = &stack.relay;
    poll("two allocations at the relay that took its place", Deadline::after(4 * PATIENCE), || {
        Ok((relay.allocations()? >= 2).then_some(()))
    })?;
    for page in [&pages.ada, &pages.bob] {
        page.status_is("On call")?;
    }
    let after = pages.see(20)?;
    pages.talk("Again")?;
    Ok(evidence(after)
        .fact(format!("{} and {} frames were decoded before the relay was killed", before.0, before.1))
        .fact("both pages restarted ICE by themselves, and decoded new frames through the relay that took its place")
        .fact("text goes both ways again"))
}

pub(in super::super) fn offline(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let ada = stack.page(&browsers, &Setup::named("ada"), "key=room")?;
    ada.status_is("Waiting")?;
    let bob = stack.page(&browsers, &Setup::named("bob"), "key=room")?;
    for page in [&ada, &bob] {
        page.status_is("Ready for call")?;
    }
    ada.emulate("Network.enable", &json!({}))?;
    network(&ada, false)?;
    ada.shows("notice", "The server is away")?;
    // Without a call, so that all of it goes through signaling.
    for page in [&ada, &bob] {
        let name = page.name();
        page.ask(&format!(
            "for (let number = 1; number <= {TEXTS}; number += 1) {{
               document.getElementById('text').value = `{name} ${{number}}`;
               document.getElementById('send').click();
             }}"
        ))?;
    }
    network(&ada, true)?;
    for (page, other) in [(&ada, &bob), (&bob, &ada)] {
        let expected: Vec<String> = (1..=TEXTS).map(|number| format!("{} {number}", other.name())).collect();
        let received =
            "[...document.querySelectorAll('#received li:not(.setup) span')].map((text) => text.innerText)";
        page.wait("everything that was said", &format!("{received}.length >= {TEXTS}"))?;
        // In the order of their coming, though the list has the newest first.
        let heard: Value = page.ask(&format!("return {received}.reverse();"))?;
        ensure!(heard == json!(expected), "{} heard {heard}", page.name());
    }
    ada.is_clean(&["net::ERR_"])?;
    bob.is_clean(&[])?;
    Ok(Evidence::new().fact(format!(
        "{TEXTS} texts each way, said while one page was without a network, came once and in order when it was back"
    )))
}

const TEXTS: usize = 40;

fn network(page: &Page, there: bool) -> Result<()> {
    let conditions =
        json!({ "offline": !there, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
    page.emulate("Network.emulateNetworkConditions", &conditions)
}

pub(in super::super) fn camera_refused(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let ada = stack.page(&browsers, &Setup::named("ada").refusing_the_camera(), "key=room")?;
    ada.shows("help", "Your camera and microphone may not be used")?;
    ada.shows("help", "Click the camera or the lock beside the address")?;
    ada.status_is("Waiting")?;
    let picture = ada.screenshot("camera-refused")?;
    let bob = stack.page(&browsers, &Setup::named("bob"), "key=room")?;
    for page in [&ada, &bob] {
        page.status_is("Ready for call")?;
    }
    // Whoever cannot be seen can still see.
    ada.click("call")?;
    let frames = ada.sees(20)?;
    bob.shows("remote-note", "Their camera and microphone are off")?;
    ada.is_clean(&[])?;
    Ok(Evidence { frames: Some((frames, 0)), ..Evidence::new() }
        .fact("who refuses the camera is told in words how to allow it, and can still call and see")
        .fact(format!("a picture of it: {}", picture.file_name().unwrap_or_default().display())))
}
