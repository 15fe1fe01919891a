//! Tracks that come and go during a call of a page and `farcall-peer`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::media::encode;
use crate::browser::{Browsers, Page, Setup};
use crate::event::Recorded;
use crate::ffprobe::Probe;
use crate::peer::{Call, Peer};
use crate::process::Mark;
use crate::stack::Stack;
use crate::{Context, Evidence};

/// What the peer is told to send, and no more to send, is seen and heard at the page.
pub(in super::super) fn of_the_peer(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let pictures = "testsrc=duration=5:size=320x240:rate=20";
    let vp8 = ["-c:v", "libvpx", "-deadline", "realtime", "-g", "20", "-f", "ivf"];
    let video = encode(ctx, pictures, &vp8, "pictures.ivf")?;
    let sound = "sine=frequency=440:duration=5:sample_rate=44100";
    let audio = encode(ctx, sound, &["-ac", "1", "-f", "wav"], "sound.wav")?;

    let browsers = Browsers::start(ctx)?;
    let page = stack.page(&browsers, &Setup::named("page"), "key=room&name=Page")?;
    page.status_is("Waiting")?;
    let silent = Call::new("peer").at_every_address().without_media().taking_commands();
    let mut peer = stack.call(ctx, silent)?;
    let connected = peer.connected()?;
    page.status_is("On call")?;
    page.shows("remote-note", "Their camera and microphone are off")?;

    let before = peer.negotiated("offer", "sent")?;
    peer.say(&format!("/video {}", video.display()))?;
    page.shows("remote-note", "Their microphone is off")?;
    let mut frames = shows(&page, [320, 240])?;
    peer.say(&format!("/audio {}", audio.display()))?;
    page.wait("no word of what is missing", "document.getElementById('remote-note').hidden")?;
    listen(&page)?;
    page.wait("440 Hz", "window.loudest > 420 && window.loudest < 460")?;
    // From one source to another, in another codec.
    peer.say("/video live")?;
    frames = frames.max(shows(&page, [640, 360])?);
    peer.say("/video none")?;
    page.shows("remote-note", "Their camera is off")?;
    let end = page.frames()?;
    peer.say("/video test")?;
    page.wait("the camera again", "document.getElementById('remote-note').hidden")?;
    frames = frames.max(shows(&page, [320, 180])?);
    peer.say("/audio none")?;
    page.shows("remote-note", "Their microphone is off")?;
    peer.say("/video none")?;
    page.shows("remote-note", "Their camera and microphone are off")?;
    let offers = peer.negotiated("offer", "sent")? - before;
    ensure!(offers >= CHANGES, "{CHANGES} changes were told in {offers} offers");
    // What is left still works.
    peer.say("nothing to see")?;
    page.hears("nothing to see")?;
    page.is_clean(&[])?;
    Ok(Evidence { frames: Some((frames, 0)), ..Evidence::new().connected(&connected) }
        .fact("a file, the test pattern and the test clip, one after the other, each in its size and with frames that grew")
        .fact(format!("{end} frames when the first two had ended; the page said what was missing after each end"))
        .fact("a tone of 440 Hz was heard as such in what the page plays"))
}

/// File and tone, pattern, nothing, clip, and the end of both.
const CHANGES: usize = 7;

/// Waits for a picture of this size that moves; returns the number of frames.
fn shows(page: &Page, [width, height]: [u32; 2]) -> Result<u64> {
    let video = "document.getElementById('remote')";
    let size = format!("{video}.videoWidth === {width} && {video}.videoHeight === {height}");
    page.wait(&format!("a picture of {width} by {height}"), &size)?;
    page.sees(20)
}

/// Lets a page find the loudest frequency in what it plays.
fn listen(page: &Page) -> Result<()> {
    page.ask(
        "const audio = document.getElementById('remote').srcObject.getAudioTracks();
         const context = new AudioContext();
         const analyser = context.createAnalyser();
         analyser.fftSize = 8192;
         context.createMediaStreamSource(new MediaStream(audio)).connect(analyser);
         const bins = new Float32Array(analyser.frequencyBinCount);
         setInterval(() => {
           analyser.getFloatFrequencyData(bins);
           const level = Math.max(...bins);
           window.loudest = level > -60 ? bins.indexOf(level) * context.sampleRate / analyser.fftSize : 0;
         }, 50);",
    )
    .map(drop)
}

/// A camera that is switched off and on, and a screen beside it, are recorded by the peer, each in its file.
pub(in super::super) fn of_the_page(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let page = stack.page(&browsers, &Setup::named("page"), "key=room&name=Page")?;
    page.status_is("Waiting")?;
    let call = Call::new("peer").at_every_address().without_media().recording().counting(OFTEN);
    let mut peer = stack.call(ctx, call)?;
    let connected = peer.connected()?;
    page.status_is("On call")?;
    peer.track(Mark::START, "video")?;
    receives(&peer, Mark::START, 1)?;
    let before = peer.negotiated("offer", "received")?;

    let off = peer.process.mark();
    page.click("camera")?;
    let first = peer.track_recorded(off, "video")?;
    let on = peer.process.mark();
    page.click("camera")?;
    peer.track(on, "video")?;
    receives(&peer, on, 1)?;
    let share = peer.process.mark();
    page.click("share")?;
    peer.track(share, "video")?;
    receives(&peer, share, 2)?;
    let unshare = peer.process.mark();
    page.click("share")?;
    let screen = peer.track_recorded(unshare, "video")?;
    receives(&peer, unshare, 1)?;
    let hung_up = peer.process.mark();
    let offers = peer.negotiated("offer", "received")? - before;
    page.click("hangup")?;
    let second = peer.track_recorded(hung_up, "video")?;
    let sound = peer.track_recorded(hung_up, "audio")?;
    peer.process.signal(rustix::process::Signal::TERM)?;
    peer.ends_well()?;
    ensure!(offers >= 4, "the page made {offers} offers for four changes");
    let mut evidence = Evidence::new().connected(&connected);
    for (what, recorded) in
        [("the camera", first), ("the camera again", second), ("the screen", screen), ("the sound", sound)]
    {
        let probe = decoded(&recorded)?;
        evidence = evidence.fact(format!(
            "{what}: ffprobe decodes all {} {} frames{} of {}",
            probe.frames,
            probe.codec,
            probe.size.map_or_else(String::new, |(width, height)| format!(", {width} by {height},")),
            name(&recorded.path),
        ));
    }
    page.is_clean(&[])?;
    Ok(evidence.fact(format!("the page renegotiated {offers} times")))
}

const OFTEN: Duration = Duration::from_millis(200);
/// Of each track.
const PACKETS: u64 = 40;

/// Waits until so many streams of video have each brought something new since `from`.
fn receives(peer: &Peer, from: Mark, streams: usize) -> Result<()> {
    let mut seen = BTreeMap::new();
    peer.counts(from, &format!("{PACKETS} packets of {streams} video streams"), |entry| {
        let is_video = entry["type"] == "inbound-rtp" && entry["kind"] == "video";
        let (source, packets) = (entry["ssrc"].as_u64()?, entry["packetsReceived"].as_u64()?);
        if !is_video {
            return None;
        }
        let (least, most) = seen.entry(source).or_insert((packets, packets));
        (*least, *most) = ((*least).min(packets), (*most).max(packets));
        let busy = seen.values().filter(|(least, most)| most - least >= PACKETS).count();
        (busy >= streams).then_some(())
    })
}

fn decoded(recorded: &Recorded) -> Result<Probe> {
    let probe = Probe::of(&recorded.path)?;
    let name = name(&recorded.path);
    ensure!(probe.frames == recorded.frames, "{} frames of {} in {name}", probe.frames, recorded.frames);
    ensure!(probe.frames >= FEWEST, "only {} frames in {name}", probe.frames);
    Ok(probe)
}

/// A picture takes few packets, but more than one.
const FEWEST: u64 = 3;

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
