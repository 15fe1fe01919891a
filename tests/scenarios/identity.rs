//! Who is at the other end, although the signaling server lies.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::event::EventKind;
use crate::host::Host;
use crate::impostor::Impostor;
use crate::peer::{Call, Peer};
use crate::signaling::Signaling;
use crate::{Context, Evidence, args};

pub(super) fn somebody_in_between(ctx: &Context) -> Result<Evidence> {
    let host = Host::local();
    let signaling = Signaling::start(ctx, &host, &[])?;
    let heard = wiretapped(ctx, &host, &signaling)?;

    let (alices, alice_key) = identity(ctx, &host, "alice")?;
    let (bobs, bob_key) = identity(ctx, &host, "bob")?;
    let (mallorys, _) = identity(ctx, &host, "mallory")?;
    let rooms = ["bob-and-mallory", "alice-and-mallory"];
    let impostor = Impostor::before(&host, &signaling.url(), rooms)?;
    let mallory = |name: &str, room: &str| {
        let call =
            Call::new(name).in_room(room).without_media().with_identity(&mallorys).trusting_peer("anybody");
        Peer::call(ctx, &host, &signaling.url(), call)
    };
    let victim = |name: &str, file: &PathBuf, trusted: &str| {
        let call = Call::new(name).without_media().with_identity(file).trusting_peer(trusted);
        Peer::call(ctx, &host, &impostor.url(), call)
    };
    let [first, second] = rooms;
    // Bob first, so that what he says of himself can be told to Alice.
    let to_bob = mallory("mallory-to-bob", first)?;
    to_bob.joined()?;
    let mut bob = victim("bob-deceived", &bobs, &alice_key)?;
    let bobs_failure = bob.fails("UNTRUSTED", 77)?;
    let to_alice = mallory("mallory-to-alice", second)?;
    to_alice.joined()?;
    let mut alice = victim("alice-deceived", &alices, &bob_key)?;
    let alices_failure = alice.fails("UNTRUSTED", 77)?;
    ensure!(impostor.forged() > 0, "the impostor passed nothing off as somebody else's");
    for deceived in [&alice, &bob] {
        let used = deceived.said(|event| {
            matches!(event, EventKind::Connected(_) | EventKind::ChannelOpen { .. } | EventKind::Text { .. })
                .then_some(())
        })?;
        ensure!(used.is_empty(), "{} used the connection", deceived.process.name());
    }
    drop((to_bob, to_alice));

    let honest = |name: &str, file: &PathBuf, trusted: &str| {
        let call =
            Call::new(name).in_room("honest").without_media().with_identity(file).trusting_peer(trusted);
        Peer::call(ctx, &host, &signaling.url(), call)
    };
    let mut alice = honest("alice", &alices, &bob_key)?;
    alice.joined()?;
    let bob = honest("bob", &bobs, &alice_key)?;
    let connected = bob.connected()?;
    alice.channel_open()?;
    alice.say("it is really me")?;
    bob.hears("it is really me")?;
    Ok(Evidence::new()
        .connected(&connected)
        .fact(format!("without identities the one in between read {heard:?} and neither side knew"))
        .fact(format!("Bob, to whom it showed its own key, refused: {}", bobs_failure.message))
        .fact(format!("Alice, to whom it showed Bob's, refused: {}", alices_failure.message))
        .fact("through an honest server the two recognised each other"))
}

/// Shows that the attack is real: two who show no identity do not notice it.
fn wiretapped(ctx: &Context, host: &Host, signaling: &Signaling) -> Result<String> {
    let rooms = ["alice-and-tap", "bob-and-tap"];
    let impostor = Impostor::before(host, &signaling.url(), rooms)?;
    let plain = |name: &str, server: &str, room: &str| {
        Peer::call(ctx, host, server, Call::new(name).in_room(room).without_media())
    };
    let [first, second] = rooms;
    let mut taps = [plain("tap-1", &signaling.url(), first)?, plain("tap-2", &signaling.url(), second)?];
    for tap in &taps {
        tap.joined()?;
    }
    let mut alice = plain("alice-tapped", &impostor.url(), "room")?;
    alice.channel_open()?;
    let bob = plain("bob-tapped", &impostor.url(), "room")?;
    bob.channel_open()?;
    let secret = "the launch code is 0000";
    alice.say(secret)?;
    let [to_alice, to_bob] = &mut taps;
    to_alice.hears(secret)?;
    to_bob.say(secret)?;
    bob.hears(secret)?;
    Ok(secret.to_owned())
}

/// Lets the program make an identity; returns its file and its public key.
fn identity(ctx: &Context, host: &Host, name: &str) -> Result<(PathBuf, String)> {
    let name = format!("{name}-identity");
    let mut peer = Peer::verb(ctx, host, "http://unused.invalid", &name, &[], args!["identity"])?;
    let (key, file) = peer.wait("its identity", |event| {
        if let EventKind::OwnIdentity { key, file } = event { Some((key, PathBuf::from(file))) } else { None }
    })?;
    let code = peer.process.exit_code(crate::clock::Deadline::after(crate::clock::PATIENCE))?;
    ensure!(code == 0, "{name} ended with {code}");
    let mode = std::fs::metadata(&file).with_context(|| format!("{}", file.display()))?.permissions();
    ensure!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o077 == 0,
        "others may read {}",
        file.display()
    );
    Ok((file, key))
}
