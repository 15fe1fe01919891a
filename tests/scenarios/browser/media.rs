//! What a call carries besides a camera's picture, and by which way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Pages, evidence};
use crate::browser::{Browsers, Page, Setup};
use crate::clock::{self, Deadline, PATIENCE};
use crate::host::Host;
use crate::peer::Call;
use crate::relay::{Direction, Relay};
use crate::stack::{Settings, Stack};
use crate::{Context, Evidence};

pub(in super::super) fn relayed_udp(ctx: &Context) -> Result<Evidence> {
    relayed(ctx, "UDP", |relay| Ok(relay.turn_uri()))
}

pub(in super::super) fn relayed_tcp(ctx: &Context) -> Result<Evidence> {
    relayed(ctx, "TCP", |relay| Ok(relay.turn_tcp_uri()))
}

pub(in super::super) fn relayed_tls(ctx: &Context) -> Result<Evidence> {
    relayed(ctx, "TLS", Relay::turn_tls_uri)
}

fn relayed(ctx: &Context, protocol: &str, turn: impl Fn(&Relay) -> Result<String>) -> Result<Evidence> {
    let relay = Relay::start_with_tls(ctx, &Host::local())?;
    let turn_uri = Some(turn(&relay)?);
    let stack = Stack::around(ctx, relay, Settings { turn_uri, ..Settings::default() })?;
    let browsers = Browsers::start(ctx)?;
    let pages = Pages::meet(&stack, &browsers, "relay=1")?;
    let frames = pages.see(20)?;
    for page in [&pages.ada, &pages.bob] {
        page.shows("path", "Through a relay")?;
        page.shows("path", protocol)?;
        let pair = page.ask("return document.getElementById('pair').innerText;")?;
        let pair = pair.as_str().unwrap_or_default();
        ensure!(pair.matches("relay ").count() == 2, "{} uses the pair {pair}", page.name());
    }
    pages.talk("Relayed")?;
    let before = stack.relay.forwarded(Direction::ToClient)?;
    let after = stack.relay.forwards_on(before, 150)?;
    let allocations = stack.relay.allocations()?;
    ensure!(allocations >= 2, "the relay holds {allocations} allocations for two pages");
    pages.are_clean()?;
    Ok(evidence(frames)
        .fact(format!(
            "both ends are relay candidates over {protocol}; the relay holds {allocations} allocations"
        ))
        .fact(format!("the relay counted {} datagrams, and more with every frame", after.datagrams)))
}

pub(in super::super) fn tones(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let pages = Pages::meet(&stack, &browsers, "")?;
    let frames = pages.see(10)?;
    listen(&pages.bob)?;
    // The pretended microphone beeps; that must not be taken for a tone.
    pages.bob.wait("a second of listening", "window.listened > 50")?;
    ensure!(heard(&pages.bob)?.is_empty(), "tones were heard that nobody played: {:?}", heard(&pages.bob)?);
    pages.ada.click("keypad")?;
    for (key, row, column) in KEYS {
        let was_heard = format!("return window.heard.includes('{row}+{column}');");
        // A tone is short: a machine that is busy elsewhere may not have listened, and whoever called presses again.
        clock::poll(&format!("the tone {key}"), Deadline::after(2 * PATIENCE), || {
            pages.ada.click_on(&format!("[data-tone='{key}']"))?;
            let listened = Deadline::after(TONE);
            Ok(clock::poll("a tone", listened, || {
                Ok(pages.bob.ask(&was_heard)?.as_bool().filter(|heard| *heard))
            })
            .ok())
        })?;
    }
    pages.are_clean()?;
    Ok(evidence(frames)
        .fact("5, 1 and # were heard as 770+1336, 697+1209 and 941+1477 Hz in what the other page plays"))
}

pub(in super::super) fn tones_with_peer(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let page = stack.page(&browsers, &Setup::named("page"), "key=room&name=Page")?;
    page.status_is("Waiting")?;
    // A pause until the page listens, and once more for one that was busy elsewhere.
    let peer = stack.call(ctx, Call::new("peer").at_every_address().dialing(",5,1,#,5,1,#,5,1,#"))?;
    let connected = peer.connected()?;
    page.status_is("On call")?;
    listen(&page)?;
    for (key, row, column) in KEYS {
        page.wait(&format!("the tone {key}"), &format!("window.heard.includes('{row}+{column}')"))?;
    }
    page.click("keypad")?;
    for (key, ..) in KEYS {
        page.click_on(&format!("[data-tone='{key}']"))?;
        peer.hears_key(key)?;
    }
    page.is_clean(&[])?;
    Ok(Evidence::new()
        .connected(&connected)
        .fact(
            "5, 1 and # of the peer were heard as 770+1336, 697+1209 and 941+1477 Hz in what the page plays",
        )
        .fact("the same keys pressed at the page were told by the peer, each once it was pressed"))
}

/// Keys, and the two frequencies of each. ITU-T Q.23.
const KEYS: [(char, u16, u16); 3] = [('5', 770, 1336), ('1', 697, 1209), ('#', 941, 1477)];

/// How long a tone may take to be heard.
const TONE: Duration = Duration::from_secs(3);

/// Lets a page analyse what it hears, and note each pair of frequencies that stands out alone.
fn listen(page: &Page) -> Result<()> {
    page.ask(
        "const audio = document.getElementById('remote').srcObject.getAudioTracks();
         const context = new AudioContext();
         const analyser = context.createAnalyser();
         analyser.fftSize = 4096;
         analyser.smoothingTimeConstant = 0;
         context.createMediaStreamSource(new MediaStream(audio)).connect(analyser);
         const bins = new Float32Array(analyser.frequencyBinCount);
         const level = (hertz) => {
           const bin = Math.round(hertz * analyser.fftSize / context.sampleRate);
           return Math.max(bins[bin - 1], bins[bin], bins[bin + 1]);
         };
         const loudest = (group) => {
           const [first, second] = group.map((hertz) => [level(hertz), hertz]).sort((a, b) => b[0] - a[0]);
           return first[0] > -60 && first[0] - second[0] > 12 ? first[1] : null;
         };
         window.heard = [];
         window.listened = 0;
         setInterval(() => {
           analyser.getFloatFrequencyData(bins);
           const [row, column] = [loudest([697, 770, 852, 941]), loudest([1209, 1336, 1477])];
           if (row && column) window.heard.push(row + '+' + column);
           window.listened += 1;
         }, 20);",
    )
    .map(drop)
}

fn heard(page: &Page) -> Result<Vec<Value>> {
    let heard = page.ask("return window.heard;")?;
    Ok(heard.as_array().context("nothing listens")?.clone())
}

pub(in super::super) fn screen(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let pages = Pages::meet(&stack, &browsers, "")?;
    pages.see(10)?;
    let offers = "[...document.querySelectorAll('#sent .setup summary')].filter((one) => one.innerText === 'offer').length";
    let before = pages.ada.ask(&format!("return {offers};"))?.as_u64().unwrap_or_default();
    pages.ada.click("share")?;
    let shown = "!document.getElementById('remote-screen').hidden \
                 && document.getElementById('remote-screen').getVideoPlaybackQuality().totalVideoFrames > 5";
    pages.bob.wait("the screen", shown)?;
    let frames = pages.see(10)?;
    let picture = pages.bob.screenshot("screen-share")?;
    pages.ada.click("share")?;
    pages.bob.wait("the end of the screen", "document.getElementById('remote-screen').hidden")?;
    pages.ada.wait("two renegotiations", &format!("{offers} >= {}", before + 2))?;
    pages.see(10)?;
    pages.are_clean()?;
    Ok(evidence(frames)
        .fact("frames of the screen were decoded at the other side beside those of the camera")
        .fact("sharing and ending it each made an offer; the camera went on")
        .fact(format!("a picture of it: {}", picture.file_name().unwrap_or_default().display())))
}
