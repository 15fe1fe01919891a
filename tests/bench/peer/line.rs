//! A long line, which may lose packets: what a data channel, and `send` and `receive`, carry over the lab's cable, beside
//! TCP connections on the same path in the same run.
//!
//! The line has a rate, as every line has: without one, the path would be as fast as this machine happens to be. Packets are lost
//! both ways, each by itself.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use farcall_tests::Context;
use farcall_tests::clock::now;
use farcall_tests::host::Host;
use farcall_tests::lab::cable::{Rate, Traits};
use farcall_tests::lab::{Internet, rights};
use farcall_tests::signaling::Signaling;
use rustix::net::sockopt::set_tcp_congestion;

use super::{Pair, attempt, channel, files};
use crate::figures::{Figures, Goal};

const ROUNDS: usize = 5;
/// Some seconds at the line's rate, and as many where TCP reaches a tenth of it or less.
const LENGTH: usize = 32 << 20;
const LENGTH_WITH_LOSS: usize = 4 << 20;
const BITS_PER_SECOND: u64 = 100_000_000;
/// Percent of what TCP reaches.
const GOAL: f64 = 60.0;
/// What Linux uses unless it is told otherwise; the ratio is to this one.
const USUAL: &str = "cubic";
/// One that loss does not slow down, where the kernel has it.
const OTHER: &str = "bbr";
const PATIENCE: Duration = Duration::from_secs(120);

/// A round trip of so many milliseconds, and so many packets of a hundred lost each way.
pub(super) fn run(ctx: &Context, figures: &mut Figures, round_trip: u64, percent: u16) -> Result<()> {
    rights::check()?;
    let mut internet = Internet::new()?;
    let server = internet.attach_host("server")?;
    let (receiver, sender) = (internet.attach_host("receiver")?, internet.attach_host("sender")?);
    let signaling = Signaling::start(ctx, &server, &[])?;
    let pair = Pair { signaling: signaling.url(), receiver: &receiver, sender: &sender };
    // Downwards, what goes through the cable is single packets, whoever sends.
    let traits = Traits {
        delay: Duration::from_millis(round_trip / 2),
        loss: 10 * percent,
        rate: Some(Rate::of(BITS_PER_SECOND)),
        ..Traits::default()
    };
    let cable = internet.splice("receiver", traits, round_trip + u64::from(percent))?;
    let length = if percent == 0 { LENGTH } else { LENGTH_WITH_LOSS };
    let source = ctx.folder().join("source");
    files::write(&source, length)?;
    let what = |who: &str| format!("{round_trip} ms, {percent} % loss: {who}");
    for round in 0..ROUNDS {
        let tcp = attempt(figures, &what(USUAL), |_| copy(&receiver, &sender, length, USUAL));
        if let Some(tcp) = tcp {
            figures.add(&what("TCP (cubic)"), "MB/s", tcp);
        }
        let share = |figures: &mut Figures, who: &str, speed: f64| {
            figures.add(&what(who), "MB/s", speed);
            if let Some(tcp) = tcp {
                let share = 100.0 * speed / tcp;
                figures.add_towards(Goal::AtLeast(GOAL), &what(&format!("{who}, to TCP")), "%", share);
            }
        };
        let (who, room) = ("data channel", format!("channel-{round}"));
        let run = |_: &mut Figures| channel::measure(ctx, &pair, "all", &length.to_string(), &room);
        if let Some(measured) = attempt(figures, &what(who), run) {
            share(figures, who, measured.megabytes_per_second);
        }
        let (who, key, target) =
            ("send and receive", format!("files-{round}"), ctx.folder().join("received"));
        let run = |_: &mut Figures| files::transfer(ctx, &pair, &source, &target, &key);
        if let Some(speed) = attempt(figures, &what(who), run) {
            share(figures, who, speed);
        }
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        if fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")?.contains(OTHER)
            && let Some(tcp) = attempt(figures, &what(OTHER), |_| copy(&receiver, &sender, length, OTHER))
        {
            figures.add(&what("TCP (bbr)"), "MB/s", tcp);
        }
    }
    let [_, down] = cable.counted()?;
    super::note(&format!(
        "{}: of {} frames {} were lost and {} found the queue full",
        what("the cable"),
        down.entered,
        down.lost,
        down.dropped
    ));
    fs::remove_file(&source)?;
    Ok(())
}

/// Megabytes a second of one TCP connection, from when the receiver has it until it has everything.
fn copy(receiver: &Host, sender: &Host, length: usize, congestion_control: &str) -> Result<f64> {
    let address = SocketAddr::new(receiver.ip, 0);
    let listener = receiver.within(|| TcpListener::bind(address).context("listening"))?;
    let address = listener.local_addr()?;
    // Connected before anybody waits for it.
    let mut stream = sender.within(|| TcpStream::connect(address).context("connecting"))?;
    set_tcp_congestion(&stream, congestion_control).context("choosing the congestion control")?;
    stream.set_write_timeout(Some(PATIENCE))?;
    thread::scope(|scope| {
        let receiving = scope.spawn(move || -> Result<f64> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let started = now();
            let mut buffer = vec![0; 256 << 10];
            let mut received = 0;
            while let read @ 1.. = stream.read(&mut buffer)? {
                received += read;
            }
            ensure!(received == length, "{received} bytes were received");
            #[expect(clippy::cast_precision_loss, reason = "mebibytes of a test")]
            let megabytes = received as f64 / 1e6;
            Ok(megabytes / (now() - started).as_secs_f64())
        });
        stream.write_all(&vec![0x55; length])?;
        drop(stream);
        receiving.join().map_err(|_| anyhow!("the receiver panicked"))?
    })
}
