//! The page as it is in the world: over TLS, and with a token for its room.

use std::ffi::OsString;

use anyhow::{Context as _, Result, ensure};

use super::evidence;
use crate::browser::{Browsers, Setup};
use crate::clock::{Deadline, PATIENCE};
use crate::host::Host;
use crate::peer::{Call, Peer};
use crate::process::Mark;
use crate::stack::{Settings, Stack};
use crate::{Context, Evidence, args};

/// Of HS256, so at least 32 bytes.
const SECRET: &str = "nobody else knows these thirty-two bytes";

pub(in super::super) fn https_and_tokens(ctx: &Context) -> Result<Evidence> {
    let (signaling, authorities) = behind_tls(ctx)?;
    let stack = Stack::start_with(ctx, Settings { signaling, ..Settings::default() })?;
    let url = stack.signaling.url().replace("http://", "https://");
    let browsers = Browsers::start(ctx)?;
    let open = |setup: Setup, query: &str| browsers.open(&setup, &format!("{url}/?{query}"));

    let eve = open(Setup::named("eve"), "key=room&name=Eve")?;
    eve.shows("notice", "asks for an invitation")?;
    eve.status_is("Disconnected")?;
    let elsewhere = token(ctx, "elsewhere", "another")?;
    let mallory = open(Setup::named("mallory"), &format!("key=room&name=Mallory&token={elsewhere}"))?;
    mallory.shows("notice", "invitation is for another key")?;
    drop((eve, mallory));

    let adas = token(ctx, "ada", "room")?;
    let ada = open(Setup::named("ada"), &format!("key=room&name=Ada&token={adas}"))?;
    ada.status_is("Waiting")?;
    let bobs = token(ctx, "bob", "room")?;
    let call = Call::new("bob").token(&bobs).trusting(authorities).at_every_address();
    let bob = Peer::call(ctx, &Host::local(), &url, call)?;
    let connected = bob.connected()?;
    ada.status_is("On call")?;
    let frames = ada.sees(20)?;
    bob.first_frame("video")?;
    let scheme = ada.ask("return location.protocol + ' ' + isSecureContext;")?;
    ensure!(scheme == "https: true", "the page came by {scheme}");
    ada.is_clean(&[])?;
    Ok(evidence((frames, 0))
        .connected(&connected)
        .fact("without a token, and with one for another room, the page says what is missing")
        .fact("over HTTPS a page and a peer with tokens of their own called each other")
        .fact(format!("the page decoded {frames} frames of the peer")))
}

/// Has signaling speak TLS and want tokens; returns its flags and what clients must trust.
fn behind_tls(ctx: &Context) -> Result<(Vec<OsString>, OsString)> {
    let names = vec![Host::local().ip.to_string()];
    let certificate = rcgen::generate_simple_self_signed(names).context("making a certificate")?;
    std::fs::create_dir_all(ctx.folder())?;
    let (cert, key) = (ctx.folder().join("page-cert.pem"), ctx.folder().join("page-key.pem"));
    std::fs::write(&cert, certificate.cert.pem())?;
    std::fs::write(&key, certificate.signing_key.serialize_pem())?;
    Ok((args!["--tls-cert", &cert, "--tls-key", key, "--token-secret", SECRET], cert.into()))
}

/// A token as an operator makes it.
fn token(ctx: &Context, name: &str, room: &str) -> Result<String> {
    let args = args!["token", "--secret", SECRET, "--room", room, "--identity", name];
    let process = ctx.spawn(&Host::local(), &format!("token-of-{name}"), "farcall-signaling", args)?;
    process.wait_for("the token", Mark::START, Deadline::after(PATIENCE), |line| {
        Ok(line.starts_with("ey").then(|| line.to_owned()))
    })
}
