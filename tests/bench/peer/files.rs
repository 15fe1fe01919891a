//! A large file by `send` and `receive`, and the same file in turns by a plain TCP connection over loopback.
//!
//! Both ways the file is on the disk at the end, and not merely with the kernel.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use farcall_tests::clock::now;
use farcall_tests::event::EventKind;
use farcall_tests::peer::Peer;
use farcall_tests::stack::Stack;
use farcall_tests::{Context, args};

use crate::figures::Figures;

const ROUNDS: usize = 5;
/// A file that takes a second or two.
const LENGTH: usize = 256 << 20;

pub(super) fn run(ctx: &Context, figures: &mut Figures) -> Result<()> {
    let stack = Stack::start(ctx)?;
    let source = ctx.folder().join("source");
    write(&source)?;
    for round in 0..ROUNDS {
        let target = ctx.folder().join("received");
        let clear = || if target.exists() { fs::remove_dir_all(&target) } else { Ok(()) };
        clear()?;
        let sent = transfer(ctx, &stack, &source, &target, &format!("files-{round}"))?;
        clear()?;
        fs::create_dir(&target)?;
        let copied = copy(&source, &target.join("source"))?;
        clear()?;
        figures.add("a file of 256 MiB by send and receive, loopback", "MB/s", sent);
        figures.add("the same by a TCP connection", "MB/s", copied);
        figures.add("send and receive to TCP", "%", 100.0 * sent / copied);
    }
    fs::remove_file(&source)?;
    Ok(())
}

/// Megabytes a second from when the receiver knows of the file until the sender knows that it is there.
fn transfer(ctx: &Context, stack: &Stack, source: &Path, target: &Path, key: &str) -> Result<f64> {
    let mut receiver = stack.peer(ctx, "receiver", &[], args!["receive", "--key", key, "--to", target])?;
    receiver.joined()?;
    let mut sender = stack.peer(ctx, "sender", &[], args!["send", "--key", key, source])?;
    let took = |peer: &Peer| {
        peer.wait("the end of the transfer", |event| {
            if let EventKind::Transferred { bytes, elapsed_ms } = event {
                Some((bytes, elapsed_ms))
            } else {
                None
            }
        })
    };
    let (bytes, sending) = took(&sender)?;
    let (_, receiving) = took(&receiver)?;
    ensure!(bytes == LENGTH as u64, "{bytes} bytes were sent");
    sender.ends_well()?;
    receiver.ends_well()?;
    Ok(megabytes() * 1e3 / sending.max(receiving))
}

/// Megabytes a second.
fn copy(source: &Path, target: &Path) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let started = now();
    thread::scope(|scope| {
        let receiver = scope.spawn(move || -> io::Result<u64> {
            let (mut stream, _) = listener.accept()?;
            let mut file = File::create(target)?;
            let bytes = io::copy(&mut stream, &mut file)?;
            file.sync_all()?;
            Ok(bytes)
        });
        let mut stream = TcpStream::connect(address)?;
        io::copy(&mut File::open(source)?, &mut stream)?;
        drop(stream);
        let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
        ensure!(received == LENGTH as u64, "{received} bytes were received");
        Ok(())
    })?;
    Ok(megabytes() / (now() - started).as_secs_f64())
}

/// Nothing that a file system could keep as less.
fn write(path: &Path) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0; 1 << 20];
    for _ in 0..LENGTH / block.len() {
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
fn megabytes() -> f64 {
    LENGTH as f64 / 1e6
}
