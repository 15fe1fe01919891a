//! A large file by `send` and `receive`, and the same file in turns by a plain TCP connection over loopback.
//!
//! Both ways the file is on the disk at the end, and not merely with the kernel.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use farcall_tests::clock::{Deadline, now};
use farcall_tests::event::{Event, EventKind};
use farcall_tests::peer::Peer;
use farcall_tests::process::Mark;
use farcall_tests::stack::Stack;
use farcall_tests::{Context, args};

use super::{Pair, attempt};
use crate::figures::Figures;

const ROUNDS: usize = 5;
/// A file that takes a second or two.
const LENGTH: usize = 256 << 20;
/// More than the slowest takes.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(ctx: &Context, figures: &mut Figures) -> Result<()> {
    let stack = Stack::start(ctx)?;
    let pair = Pair::on_loopback(&stack);
    let source = ctx.folder().join("source");
    write(&source, LENGTH)?;
    for round in 0..ROUNDS {
        let target = ctx.folder().join("received");
        let clear = || if target.exists() { fs::remove_dir_all(&target) } else { Ok(()) };
        clear()?;
        let what = "a file of 256 MiB by send and receive, loopback";
        let key = format!("files-{round}");
        let sent = attempt(figures, what, |_| transfer(ctx, &pair, &source, &target, &key));
        clear()?;
        fs::create_dir(&target)?;
        let copied = copy(&source, &target.join("source"))?;
        clear()?;
        figures.add("the same by a TCP connection", "MB/s", copied);
        if let Some(sent) = sent {
            figures.add(what, "MB/s", sent);
            figures.add("send and receive to TCP", "%", 100.0 * sent / copied);
        }
    }
    fs::remove_file(&source)?;
    Ok(())
}

/// Megabytes a second from when the receiver knows of the file until the sender knows that it is there.
pub(super) fn transfer(
    ctx: &Context,
    pair: &Pair<'_>,
    source: &Path,
    target: &Path,
    key: &str,
) -> Result<f64> {
    let length = fs::metadata(source)?.len();
    let start = |host, name, verb| Peer::verb(ctx, host, &pair.signaling, name, &[], verb);
    let mut receiver = start(pair.receiver, "receiver", args!["receive", "--key", key, "--to", target])?;
    receiver.joined()?;
    let mut sender = start(pair.sender, "sender", args!["send", "--key", key, source])?;
    let deadline = Deadline::after(PATIENCE);
    let took = |peer: &Peer| {
        peer.process.wait_for("the end of the transfer", Mark::START, deadline, |line| {
            let EventKind::Transferred { bytes, elapsed_ms } = Event::parse(line)?.kind else {
                return Ok(None);
            };
            Ok(Some((bytes, elapsed_ms)))
        })
    };
    let (bytes, sending) = took(&sender)?;
    let (_, receiving) = took(&receiver)?;
    ensure!(bytes == length, "{bytes} bytes were sent");
    sender.ends_well()?;
    receiver.ends_well()?;
    Ok(megabytes(length) * 1e3 / sending.max(receiving))
}

/// Megabytes a second.
fn copy(source: &Path, target: &Path) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let started = now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    thread::scope(|scope| {
        let receiver = scope.spawn(move || -> io::Result<u64> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut file = File::create(target)?;
            let bytes = io::copy(&mut stream, &mut file)?;
            file.sync_all()?;
            Ok(bytes)
        });
        io::copy(&mut File::open(source)?, &mut stream)?;
        drop(stream);
        let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
        ensure!(received == LENGTH as u64, "{received} bytes were received");
        Ok(())
    })?;
    Ok(megabytes(LENGTH as u64) / (now() - started).as_secs_f64())
}

/// Mebibytes that no file system could keep as less.
pub(super) fn write(path: &Path, length: usize) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0; 1 << 20];
    for _ in 0..length / block.len() {
        for bytes in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
