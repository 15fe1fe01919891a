//! Files, bytes and ports that two peers carry for programs.

use std::ffi::OsString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::transfer;
use crate::clock::{Deadline, PATIENCE};
use crate::event::{Connected, EventKind, File};
use crate::process::Mark;
use crate::relay::{Direction, Relay};
use crate::stack::{Settings, Stack};
use crate::{Context, Evidence, args};

pub(super) fn files(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let (connected, facts) = carried(ctx, &stack, LENGTH, &[])?;
    ensure!(connected.path.is_direct(), "the path is {}", connected.path);
    let relayed = stack.relay.forwarded(Direction::ToClient)?.bytes;
    ensure!(relayed < LENGTH as u64 / 100, "the relay forwarded {relayed} bytes of a direct transfer");
    Ok(Evidence::new().connected(&connected).fact(facts).fact(format!("the relay forwarded {relayed} bytes")))
}

pub(super) fn files_relayed(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let (connected, facts) = carried(ctx, &stack, LENGTH, &args!["--ice-policy", "relay"])?;
    relay_counted(&stack.relay, &connected, facts)
}

/// TURN over TLS, whose certificate is trusted because of `--ca` alone.
pub(super) fn files_relayed_tls(ctx: &Context) -> Result<Evidence> {
    let relay = Relay::start_with_tls(ctx, &crate::host::Host::local())?;
    let turn_uri = Some(relay.turn_tls_uri()?);
    let stack = Stack::around(ctx, relay, Settings { turn_uri, ..Settings::default() })?;
    // Without it nothing is trusted, and so there is no path.
    let source = ctx.folder().join("refused");
    fs::write(&source, "never arrives")?;
    let global = args!["--ice-policy", "relay"];
    let verb = args!["receive", "--key", "refused", "--to", ctx.folder().join("nothing")];
    let receiver = stack.peer(ctx, "untrusting-receiver", &global, verb)?;
    receiver.joined()?;
    let verb = args!["send", "--key", "refused", source];
    let mut sender = stack.peer(ctx, "untrusting-sender", &global, verb)?;
    let failure = sender.fails("ICE_FAILED", 76)?;
    drop((sender, receiver));

    let global = args!["--ice-policy", "relay", "--ca", ctx.folder().join("relay-cert.pem")];
    let (connected, facts) = carried(ctx, &stack, LENGTH / 4, &global)?;
    Ok(relay_counted(&stack.relay, &connected, facts)?
        .fact(format!("without --ca there was no path: {}", failure.message)))
}

fn relay_counted(relay: &Relay, connected: &Connected, facts: String) -> Result<Evidence> {
    let path = &connected.path;
    ensure!((path.local.as_str(), path.remote.as_str()) == ("relay", "relay"), "the path is {path}");
    let relayed = relay.forwarded(Direction::ToClient)?.bytes;
    ensure!(relayed >= LENGTH as u64 / 4, "the relay forwarded {relayed} bytes");
    Ok(Evidence::new().connected(connected).fact(facts).fact(format!("the relay forwarded {relayed} bytes")))
}

/// Sends a large file and a folder; returns the path and what happened.
fn carried(ctx: &Context, stack: &Stack, length: usize, global: &[OsString]) -> Result<(Connected, String)> {
    let (source, target) = (ctx.folder().join("source"), ctx.folder().join("target"));
    fs::create_dir_all(source.join("folder/deeper"))?;
    let content = transfer::content(length);
    fs::write(source.join("large"), &content)?;
    for name in ["folder/an odd\nname", "folder/deeper/-rf", "folder/deeper/empty"] {
        fs::write(source.join(name), if name.ends_with("empty") { "" } else { name })?;
    }
    let verb = args!["receive", "--key", "files", "--to", &target];
    let mut receiver = stack.peer(ctx, "receiver", global, verb)?;
    receiver.joined()?;
    let verb = args!["send", "--key", "files", source.join("folder"), source.join("large")];
    let mut sender = stack.peer(ctx, "sender", global, verb)?;
    let connected = sender.connected()?;
    let mut hashes = Vec::new();
    for peer in [&mut sender, &mut receiver] {
        let file = |event| {
            let EventKind::File(file) = event else { return None };
            (file.path == "large").then_some(file)
        };
        let File { blake3, bytes, .. } = peer.wait("the large file", file)?;
        ensure!(bytes == length as u64, "{bytes} bytes of {length}");
        hashes.push(blake3);
        let code = peer.process.exit_code(Deadline::after(3 * PATIENCE))?;
        ensure!(code == 0, "{} ended with {code}. {}", peer.process.name(), peer.process.last_words());
    }
    ensure!(hashes.first() == hashes.last(), "{hashes:?}");
    ensure!(fs::read(target.join("large"))? == content, "the large file differs");
    for name in ["folder/an odd\nname", "folder/deeper/-rf", "folder/deeper/empty"] {
        ensure!(fs::read(target.join(name))? == fs::read(source.join(name))?, "{name:?} differs");
    }
    Ok((connected, format!("{} MB and a folder of odd names arrived byte by byte", length / 1_000_000)))
}

pub(super) fn pipe(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let mut left = stack.peer(ctx, "left", &[], args!["pipe", "pipe"])?;
    let mut right = stack.peer(ctx, "right", &[], args!["pipe", "pipe"])?;
    for number in 0..100 {
        left.say(&format!("question {number}"))?;
        right.say(&format!("answer {number}"))?;
    }
    for (side, word) in [(&left, "answer"), (&right, "question")] {
        let last = format!("{word} 99");
        side.process.wait_for(&last, Mark::START, Deadline::after(PATIENCE), |line| {
            Ok((line == last).then_some(()))
        })?;
        let lines = side.process.collect(Mark::START, |line| Ok(Some(line.to_owned())))?;
        let expected: Vec<String> = (0..100).map(|number| format!("{word} {number}")).collect();
        ensure!(lines == expected, "{} heard {lines:?}", side.process.name());
    }
    Ok(Evidence::new().fact("a hundred lines each way came out on stdout in order, and nothing else did"))
}

pub(super) fn forward(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let listener = TcpListener::bind((stack.host.ip, 0)).context("listening")?;
    let target = listener.local_addr()?;
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut reader, mut writer) = (&connection, &connection);
                let _ = std::io::copy(&mut reader, &mut writer);
                let _ = connection.shutdown(Shutdown::Write);
            });
        }
    });
    let sharing =
        stack.peer(ctx, "sharing", &[], args!["forward", "ports", "--allow", target.to_string()])?;
    sharing.joined()?;
    let local = format!("0:{}:{}", target.ip(), target.port());
    let using = stack.peer(ctx, "using", &[], args!["forward", "ports", "-L", local])?;
    let address = using.wait("the port", |event| {
        if let EventKind::Listening { address, .. } = event { Some(address) } else { None }
    })?;
    let connected = using.connected()?;
    let said: Vec<u8> = (0..1_000_000u32).map(|number| number.to_le_bytes()[0]).collect();
    let mut heard = Vec::new();
    let connection = TcpStream::connect(&address).context("connecting to the forwarded port")?;
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            (&connection).write_all(&said)?;
            connection.shutdown(Shutdown::Write)
        });
        (&connection).read_to_end(&mut heard)?;
        writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("writing")
    })?;
    ensure!(heard == said, "{} bytes of {} came back", heard.len(), said.len());
    Ok(Evidence::new().connected(&connected).fact(
        "a megabyte went through a forwarded port to a program behind the other peer and back, end included",
    ))
}

/// What `doctor` and `nat` say of servers that are well, and of a relay that has another secret.
pub(super) fn doctor(ctx: &Context) -> Result<Evidence> {
    let stack = Stack::start(ctx)?;
    let mut well = stack.peer(ctx, "well", &[], args!["doctor"])?;
    let code = well.process.exit_code(Deadline::after(PATIENCE))?;
    ensure!(code == 0, "all is well, but doctor ends with {code}. {}", well.process.last_words());
    let checks = well
        .said(|event| if let EventKind::Check { what, ok, .. } = event { Some((what, ok)) } else { None })?;
    ensure!(checks.len() == 3 && checks.iter().all(|(_, ok)| *ok), "{checks:?}");
    let mut nat = stack.peer(ctx, "nat", &[], args!["nat", "--stun", stack.relay.stun_uri()])?;
    let words =
        nat.wait(
            "the behaviour",
            |event| if let EventKind::Nat(nat) = event { Some(nat.words) } else { None },
        )?;
    ensure!(nat.process.exit_code(Deadline::after(PATIENCE))? == 0, "nat fails");
    ensure!(words.starts_with("No address translation"), "on one machine: {words}");

    let settings = Settings { turn_secret: "another", ..Settings::default() };
    let stack = Stack::start_with(&ctx.in_folder(ctx.folder().join("ill")), settings)?;
    let mut ill = stack.peer(ctx, "ill", &[], args!["doctor"])?;
    let failure = ill.fails("UNREACHABLE", 69)?;
    let fixes = ill.said(|event| if let EventKind::Check { fix, .. } = event { fix } else { None })?;
    ensure!(fixes.len() == 1 && fixes.iter().all(|fix| fix.contains("--turn-secret")), "{fixes:?}");
    Ok(Evidence::new()
        .fact("signaling, STUN and TURN were found well, each by itself")
        .fact(words)
        .fact(format!("with another TURN secret: {}, and the fix named it", failure.message)))
}

/// Some seconds' worth.
const LENGTH: usize = 32 << 20;
