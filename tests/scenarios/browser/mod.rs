//! The page in real browsers: with another page, with `farcall-peer`, and when things are not as they should be.
//!
//! A picture counts when it is decoded: every scenario watches the number of frames grow.

mod media;
mod secured;
mod tracks;
mod trouble;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

pub(super) use self::media::{relayed_tcp, relayed_tls, relayed_udp, screen, tones, tones_with_peer};
pub(super) use self::secured::https_and_tokens;
pub(super) use self::tracks::{of_the_page as tracks_of_the_page, of_the_peer as tracks_of_the_peer};
pub(super) use self::trouble::{
    camera_refused, offline, relay_restarted, signaling_killed, third_page_refused,
};
use super::pair::nearly_all;
use crate::browser::{Browsers, Key, Page, Setup};
use crate::ffprobe::Probe;
use crate::peer::Call;
use crate::stack::Stack;
use crate::{Context, Evidence};

/// Two pages on a call. Ada was there first, Bob's address makes the call by itself.
struct Pages {
    ada: Page,
    bob: Page,
}

impl Pages {
    fn meet(stack: &Stack, browsers: &Browsers, query: &str) -> Result<Self> {
        let ada = stack.page(browsers, &Setup::named("ada"), &format!("key=room&name=Ada&{query}"))?;
        ada.status_is("Waiting")?;
        let bob = stack.page(browsers, &Setup::named("bob"), &format!("key=room&call=1&name=Bob&{query}"))?;
        for page in [&ada, &bob] {
            page.status_is("On call")?;
        }
        Ok(Self { ada, bob })
    }

    /// Waits until each sees so many more frames of the other; returns how many both have seen.
    fn see(&self, more: u64) -> Result<(u64, u64)> {
        Ok((self.ada.sees(more)?, self.bob.sees(more)?))
    }

    fn talk(&self, topic: &str) -> Result<()> {
        self.ada.say(&format!("{topic}? asks Ada"))?;
        self.bob.hears(&format!("{topic}? asks Ada"))?;
        self.bob.say(&format!("{topic}! says Bob <b>"))?;
        self.ada.hears(&format!("{topic}! says Bob <b>"))
    }

    fn are_clean(&self) -> Result<()> {
        self.ada.is_clean(&[])?;
        self.bob.is_clean(&[])
    }
}

pub(super) fn two_pages(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let ada = stack.page(&browsers, &Setup::named("ada"), "")?;
    ada.status_is("Disconnected")?;
    ada.write("key", "room\u{e007}")?;
    ada.status_is("Waiting")?;
    let bob = stack.page(&browsers, &Setup::named("bob"), "key=room")?;
    for page in [&ada, &bob] {
        page.status_is("Ready for call")?;
    }
    bob.click("call")?;
    for page in [&ada, &bob] {
        page.status_is("On call")?;
    }
    let pages = Pages { ada, bob };
    pages.see(20)?;
    pages.talk("Pages")?;
    let words = pages.ada.safety_words()?;
    ensure!(words == pages.bob.safety_words()?, "the two read different safety words");
    let Pages { ada, bob } = &pages;
    ada.shows("path", "Direct")?;

    let mut pictures = vec![ada.screenshot("desktop")?];
    ada.emulate(
        "Emulation.setEmulatedMedia",
        &json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] }),
    )?;
    pictures.push(ada.screenshot("desktop-dark")?);
    let phone = json!({ "width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true });
    bob.emulate("Emulation.setDeviceMetricsOverride", &phone)?;
    let overflow = bob.ask("return document.documentElement.scrollWidth - innerWidth;")?;
    ensure!(overflow.as_i64().is_some_and(|pixels| pixels <= 0), "a phone must scroll sideways: {overflow}");
    pictures.push(bob.screenshot("phone")?);

    // What is pressed at one side is seen at the other, since it renegotiates.
    bob.click("camera")?;
    ada.shows("remote-note", "camera is off")?;
    bob.click("camera")?;
    ada.wait("the camera again", "document.getElementById('remote-note').hidden")?;
    let frames = pages.see(20)?;
    bob.click("hangup")?;
    ada.shows("notice", "hung up")?;
    ada.status_is("Ready for call")?;
    pages.are_clean()?;
    Ok(evidence(frames)
        .fact("a key typed at one page and in the address of the other; a click made the call, text went both ways")
        .fact(format!("both read the same safety words: {}", words.join(" ")))
        .fact("a camera switched off and on was seen at the other side, with new frames after it")
        .fact(format!(
            "pictures of it, desktop, dark and 390 px wide: {}",
            pictures.iter().filter_map(|path| path.file_name()?.to_str()).collect::<Vec<_>>().join(", ")
        )))
}

/// From the key to hanging up without a mouse; and TURN is asked where the address says so, and nowhere else.
pub(super) fn keyboard_alone(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let ada = stack.page(&browsers, &Setup::named("ada"), "name=Ada&turnuri=0")?;
    ada.status_is("Disconnected")?;
    ada.tab_to("key")?;
    ada.emulate("Input.insertText", &json!({ "text": "room" }))?;
    ada.press(Key::Enter)?;
    ada.status_is("Waiting")?;
    let bob = stack.page(&browsers, &Setup::named("bob"), "key=room&name=Bob&turnuri=1&stunuri=0")?;
    for page in [&ada, &bob] {
        page.status_is("Ready for call")?;
    }
    bob.tab_to("call")?;
    bob.press(Key::Enter)?;
    for page in [&ada, &bob] {
        page.status_is("On call")?;
    }
    let pages = Pages { ada, bob };
    let frames = pages.see(20)?;
    let Pages { ada, bob } = &pages;
    ada.tab_to("text")?;
    ada.emulate("Input.insertText", &json!({ "text": "typed" }))?;
    ada.press(Key::Enter)?;
    bob.hears("typed")?;
    bob.tab_to("camera")?;
    bob.press(Key::Enter)?;
    ada.shows("remote-note", "camera is off")?;
    // Of Bob, over UDP: Ada asks nobody.
    let allocations = stack.relay.allocations()?;
    ensure!(allocations >= 1, "turnuri=1 asked no TURN server");
    ada.tab_to("hangup")?;
    ada.press(Key::Enter)?;
    bob.shows("notice", "hung up")?;
    pages.are_clean()?;
    Ok(evidence(frames)
        .fact("the key, the call, a line of text, the camera and hanging up, by Tab and Enter alone")
        .fact(format!("with turnuri=1 the relay held {allocations} allocations of a direct call")))
}

pub(super) fn page_and_peer(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let page = stack.page(&browsers, &Setup::named("page"), "key=room&name=Page")?;
    page.status_is("Waiting")?;
    let mut peer = stack.call(ctx, Call::new("peer").at_every_address().recording().lasting(CALL))?;
    let connected = peer.connected()?;
    page.status_is("On call")?;
    let frames = page.sees(20)?;
    peer.first_frame("video")?;
    peer.channel_open()?;
    peer.say("hello, page")?;
    page.hears("hello, page")?;
    page.say("hello, peer; ünïcödé")?;
    peer.hears("hello, peer; ünïcödé")?;
    let words = page.safety_words()?;
    let theirs = peer.safety_words()?;
    ensure!(words == theirs, "the page reads {words:?}, the peer {theirs:?}");
    let stats = peer.ends_well()?;
    let recording = peer.recording("video")?;
    let probe = Probe::of(&recording.path)?;
    nearly_all("decoded frames of the recording", probe.frames, recording.frames, 12)?;
    page.shows("notice", "hung up")?;
    page.is_clean(&[])?;
    let received = stats.video.context("no video stats")?.frames_received;
    Ok(Evidence { frames: Some((frames, received)), ..Evidence::new().connected(&connected) }
        .fact(format!("ffprobe decodes {} {} frames of the page's picture", probe.frames, probe.codec))
        .fact("text went both ways over the data channel")
        .fact(format!("page and peer read the same safety words: {}", words.join(" "))))
}

fn evidence(frames: (u64, u64)) -> Evidence {
    Evidence { frames: Some(frames), ..Evidence::new() }
}

const CALL: Duration = Duration::from_secs(6);
