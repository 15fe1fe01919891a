//! Whether a cable does what it says, measured by two hosts at its ends before anything else relies on it. What it
//! finds wrong is the lab's fault, and said to be.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::{HELD_BACK, Traits};
use crate::clock::{self, Deadline, PATIENCE};
use crate::host::Host;

/// What two hosts found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// There and back, at best.
    pub quickest: Duration,
    /// There and back, as it mostly is.
    pub usual: Duration,
    /// How many of the pings came back.
    pub answered: usize,
    /// What TCP carried to the other side, where the cable has a rate.
    pub bits_per_second: Option<f64>,
}

/// How many pings there are.
pub const PINGS: usize = 200;
/// How many at once.
const SALVO: usize = 25;

/// Measures the way from `here` `there` and back, and fails where it is not as `up` and `down` say.
pub fn check(here: &Host, there: &Host, up: Traits, down: Traits) -> Result<Measured> {
    let fault = || "the lab's fault: a cable is not what it says".to_owned();
    let trips = ping(here, there, up, down).with_context(fault)?;
    let lossless = up.loss == 0 && down.loss == 0;
    let bits_per_second = match up.rate {
        Some(rate) if lossless => Some(stream(here, there, rate.bits_per_second / 8).with_context(fault)?),
        Some(_) | None => None,
    };
    let mut sorted = trips;
    sorted.sort_unstable();
    let (quickest, usual) = (sorted.first().copied(), sorted.get(sorted.len() / 2).copied());
    let quickest = quickest.context("no ping came back").with_context(fault)?;
    let usual = usual.context("no ping came back").with_context(fault)?;
    let measured = Measured { quickest, usual, answered: sorted.len(), bits_per_second };
    measured.agrees(up, down).with_context(fault)?;
    Ok(measured)
}

impl Measured {
    fn agrees(&self, up: Traits, down: Traits) -> Result<()> {
        let Self { quickest, usual, answered, bits_per_second } = *self;
        let least = up.delay + down.delay;
        ensure!(quickest >= least, "a ping took {quickest:?} where {least:?} is the least");
        let most = longest(up) + longest(down) + SLACK;
        ensure!(usual <= most, "most pings took {usual:?} where {most:?} is the most");
        let back = |traits: Traits| 1.0 - f64::from(traits.loss) / 1000.0;
        let (share, number) = (back(up) * back(down), PINGS as f64);
        // Five standard deviations, and what a busy machine may drop.
        let around = 5.0 * (share * (1.0 - share) * number).sqrt() + 3.0;
        let (expected, found) = (share * number, answered as f64);
        ensure!(
            (found - expected).abs() <= around,
            "{answered} of {PINGS} pings came back, not {expected:.0}"
        );
        if let (Some(rate), Some(found)) = (up.rate, bits_per_second) {
            let said = rate.bits_per_second as f64;
            ensure!(
                (0.6 * said..=1.05 * said).contains(&found),
                "TCP carried {found:.0} bit/s where the rate is {said:.0}"
            );
        }
        Ok(())
    }
}

/// How late a process may be on a machine that is busy with others.
const SLACK: Duration = Duration::from_millis(150);

fn longest(traits: Traits) -> Duration {
    let held = if traits.reordering > 500 { HELD_BACK } else { Duration::ZERO };
    // A salvo goes one by one where there is a rate.
    let turn = traits.rate.map_or(0, |rate| (SALVO * 64 * 8 * 1000) as u64 / rate.bits_per_second.max(1));
    traits.delay + traits.jitter + held + Duration::from_millis(turn)
}

/// How long each of the pings that came back took.
fn ping(here: &Host, there: &Host, up: Traits, down: Traits) -> Result<Vec<Duration>> {
    let bind = |host: &Host| -> Result<UdpSocket> {
        let socket = host.within(|| Ok(UdpSocket::bind((host.ip, 0))?))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(socket)
    };
    let (asking, answering) = (bind(here)?, bind(there)?);
    let to = answering.local_addr()?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            while !done.load(Ordering::Relaxed) {
                if let Ok((length, from)) = answering.recv_from(&mut buffer) {
                    // A way back that is gone shows in the count.
                    let _ = answering.send_to(buffer.get(..length).unwrap_or_default(), from);
                }
            }
        });
        let trips = pings(&asking, to, longest(up) + longest(down) + HELD_BACK * 2 + SLACK);
        done.store(true, Ordering::Relaxed);
        trips
    })
}

fn pings(socket: &UdpSocket, to: std::net::SocketAddr, patience: Duration) -> Result<Vec<Duration>> {
    // The first one asks for addresses of neighbours, which is not the cable's doing.
    clock::poll("a first answer", Deadline::after(PATIENCE), || {
        socket.send_to(&u64::MAX.to_ne_bytes(), to)?;
        Ok(socket.recv_from(&mut [0; 64]).ok())
    })?;
    let mut sent = Vec::new();
    let mut trips = Vec::new();
    let mut back = [false; PINGS];
    for _ in 0..PINGS / SALVO {
        for _ in 0..SALVO {
            let number = sent.len() as u64;
            sent.push(clock::now());
            socket.send_to(&number.to_ne_bytes(), to)?;
        }
        let deadline = Deadline::after(patience);
        while !deadline.passed() && back.iter().take(sent.len()).any(|back| !back) {
            let mut number = [0; 8];
            match socket.recv_from(&mut number) {
                Ok((8, _)) => (),
                Ok(_) => continue,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(error) => return Err(error).context("waiting for a ping"),
            }
            let Ok(number) = usize::try_from(u64::from_ne_bytes(number)) else { continue };
            let (Some(at), Some(back)) = (sent.get(number), back.get_mut(number)) else { continue };
            // Doubles do not count.
            if !std::mem::replace(back, true) {
                trips.push(clock::now().duration_since(*at));
            }
        }
    }
    Ok(trips)
}

/// How fast TCP is, in bits a second, over about two seconds.
fn stream(here: &Host, there: &Host, bytes_per_second: u64) -> Result<f64> {
    let listener = there.within(|| Ok(TcpListener::bind((there.ip, 0))?))?;
    let to = listener.local_addr()?;
    let mut sender = here.within(|| Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
    let (mut receiver, _) = listener.accept()?;
    let total = usize::try_from(bytes_per_second * 2).context("a rate beyond this machine")?;
    sender.set_write_timeout(Some(PATIENCE))?;
    receiver.set_read_timeout(Some(PATIENCE))?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || -> Result<()> {
            let block = vec![0; 16 << 10];
            let mut left = total;
            while left > 0 {
                let part = block.get(..left.min(block.len())).unwrap_or_default();
                sender.write_all(part)?;
                left -= part.len();
            }
            Ok(())
        });
        let mut buffer = vec![0; 64 << 10];
        // The first quarter is that of the burst and of a slow start.
        let (mut read, mut begun) = (0, None);
        while read < total {
            let length = receiver.read(&mut buffer).context("receiving a stream")?;
            ensure!(length > 0, "the stream ended after {read} bytes");
            read += length;
            if begun.is_none() && read >= total / 4 {
                begun = Some((clock::now(), read));
            }
        }
        let (since, before) = begun.context("an empty stream")?;
        let took = clock::now().duration_since(since);
        sending.join().map_err(|_| anyhow!("the sender panicked"))??;
        Ok((read - before) as f64 * 8.0 / took.as_secs_f64())
    })
}
