//! What peers send besides the test clip: every format, and what is made while it is sent.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::direct::received_and_recorded;
use super::pair::Pair;
use crate::browser::{Browsers, Setup};
use crate::peer::Call;
use crate::stack::Stack;
use crate::{Context, Evidence};

/// As long as the calls whose frames `received_and_recorded` counts.
const CALL: Duration = super::direct::CALL;

pub(super) fn formats(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let pictures = "testsrc=duration=5:size=320x240:rate=20";
    let sound = "sine=frequency=440:duration=5:sample_rate=44100";
    let vp9 =
        encode(ctx, pictures, &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-f", "ivf"], "vp9.ivf")?;
    let baseline =
        ["-c:v", "libx264", "-profile:v", "baseline", "-pix_fmt", "yuv420p", "-g", "20", "-f", "h264"];
    let h264 = encode(ctx, pictures, &baseline, "pictures.h264")?;
    let wav = encode(ctx, sound, &["-ac", "2", "-f", "wav"], "sound.wav")?;
    let mut evidence = Evidence::new();
    for (name, video, audio, codec) in [
        ("live", OsString::from("live"), OsString::from("live"), "h264"),
        ("vp9", vp9.into(), wav.into(), "vp9"),
        ("h264", h264.into(), "test".into(), "h264"),
    ] {
        let names = [format!("{name}-alice"), format!("{name}-bob")];
        let mut pair = Pair::meet_as(ctx, &stack, names.each_ref().map(String::as_str), |call| {
            call.in_room(name).sending(&video, &audio).recording().lasting(CALL)
        })?;
        pair.see_and_hear()?;
        let (alice, bob) = pair.end()?;
        for (peer, own, other) in [(&pair.alice, &alice, &bob), (&pair.bob, &bob, &alice)] {
            evidence = evidence.fact(received_and_recorded(peer, own, other, codec)?);
        }
    }
    Ok(evidence)
}

/// Makes a file with `ffmpeg`.
pub(super) fn encode(ctx: &Context, input: &str, output: &[&str], name: &str) -> Result<PathBuf> {
    let path = ctx.folder().join(name);
    let status = Command::new("ffmpeg")
        .args(["-hide_banner", "-loglevel", "error", "-y", "-f", "lavfi", "-i", input])
        .args(output)
        .arg(&path)
        .status()
        .context("running ffmpeg")?;
    ensure!(status.success(), "ffmpeg does not make {name}");
    Ok(path)
}

pub(super) fn live_in_a_page(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let browsers = Browsers::start(ctx)?;
    let page = stack.page(&browsers, &Setup::named("page"), "key=room&name=Page")?;
    page.status_is("Waiting")?;
    let peer = stack.call(ctx, Call::new("peer").at_every_address().sending("live", "live"))?;
    let connected = peer.connected()?;
    page.status_is("On call")?;
    let frames = page.sees(60)?;
    let size = page.ask(
        "const video = document.getElementById('remote'); return [video.videoWidth, video.videoHeight];",
    )?;
    ensure!(size == serde_json::json!([640, 360]), "the picture is {size}");
    peer.first_frame("video")?;
    let picture = page.screenshot("live")?;
    page.is_clean(&[])?;
    Ok(Evidence { frames: Some((frames, 0)), ..Evidence::new().connected(&connected) }
        .fact("the page decodes the test pattern, encoded to H.264 while it is sent, and the peer the page's picture")
        .fact(format!("a picture of it: {}", picture.display())))
}
