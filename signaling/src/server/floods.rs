//! Frames of HTTP/2 that ask for no answer anybody waits for: pings, settings, resets, priorities, empty data. They cost
//! their sender next to nothing and the server a little each, and the library takes any number of them. A connection
//! that sends too many too fast is ended.
//!
//! Only the heads of frames are looked at, as they are read; what HTTP/1 says is left alone.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// A connection that is watched for them.
pub(super) struct Watched<IO> {
    io: IO,
    frames: Frames,
    metrics: Arc<Metrics>,
}

impl<IO> Watched<IO> {
    pub(super) fn new(io: IO, metrics: Arc<Metrics>) -> Self {
        Self { io, frames: Frames::new(Instant::now()), metrics }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        let read = Pin::new(&mut this.io).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = read {
            let fresh = buffer.filled().get(before..).unwrap_or_default();
            if this.frames.read(fresh, Instant::now).is_err() {
                this.metrics.floods_ended.add(1);
                return Poll::Ready(Err(io::Error::other("too many frames that ask for nothing")));
            }
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Where in a sequence of frames one is.
struct Frames {
    at: At,
    /// How many more there may be until the time is looked at.
    left: u16,
    since: Instant,
}

enum At {
    /// So far into the preface.
    Preface(usize),
    Head([u8; HEAD], usize),
    Payload(usize),
    Http1,
}

#[derive(Debug, PartialEq, Eq)]
struct Flood;

impl Frames {
    fn new(now: Instant) -> Self {
        Self { at: At::Preface(0), left: AT_ONCE, since: now }
    }

    /// Goes on with what was read. The time is asked for rarely.
    fn read(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.at {
                At::Http1 => return Ok(()),
                At::Preface(seen) => {
                    self.at = match *seen + 1 {
                        _ if PREFACE.get(*seen) != Some(&byte) => At::Http1,
                        seen if seen == PREFACE.len() => At::Head([0; HEAD], 0),
                        seen => At::Preface(seen),
                    };
                    bytes = rest;
                }
                At::Payload(length) => {
                    let skipped = bytes.len().min(*length);
                    *length -= skipped;
                    if *length == 0 {
                        self.at = At::Head([0; HEAD], 0);
                    }
                    bytes = bytes.get(skipped..).unwrap_or_default();
                }
                At::Head(head, filled) => {
                    if let Some(place) = head.get_mut(*filled) {
                        *place = byte;
                    }
                    *filled += 1;
                    bytes = rest;
                    if *filled == HEAD {
                        let [high, middle, low, kind, flags, ..] = *head;
                        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                        self.at = if length == 0 { At::Head([0; HEAD], 0) } else { At::Payload(length) };
                        if asks_nothing(kind, flags, length) {
                            self.one_more(&now)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn one_more(&mut self, now: &impl Fn() -> Instant) -> Result<(), Flood> {
        self.left -= 1;
        if self.left == 0 {
            let now = now();
            if now.duration_since(self.since) < WITHIN {
                return Err(Flood);
            }
            (self.left, self.since) = (AT_ONCE, now);
        }
        Ok(())
    }
}

/// RFC 9113, section 6: everything but headers, data, window updates, and data that only ends its stream.
fn asks_nothing(kind: u8, flags: u8, length: usize) -> bool {
    const END_STREAM: u8 = 1;
    match kind {
        0 => length == 0 && flags & END_STREAM == 0,
        1 | 8 => false,
        _ => true,
    }
}

/// So many within so long: whoever uses all of its streams and gives all of them up at once sends fewer.
const AT_ONCE: u16 = 8192;
const WITHIN: Duration = Duration::from_secs(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0, length[0], length[1], kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn times(count: u16, frame: &[u8]) -> Vec<u8> {
        frame.repeat(usize::from(count))
    }

    #[test]
    fn any_kind_that_asks_nothing_is_a_flood_however_it_is_cut() {
        let start = Instant::now();
        for flood in [
            frame(6, 0, &[0; 8]),
            frame(6, 1, &[0; 8]),
            frame(4, 0, &[]),
            frame(3, 0, &[0; 4]),
            frame(2, 0, &[0; 5]),
            frame(0, 0, &[]),
            frame(99, 0, b"made up"),
        ] {
            for cut in [1, 7, 9, 4096] {
                let mut frames = Frames::new(start);
                frames.read(PREFACE, || start).unwrap();
                let almost = times(AT_ONCE - 1, &flood);
                for piece in almost.chunks(cut) {
                    frames.read(piece, || start + WITHIN - Duration::from_millis(1)).unwrap();
                }
                let over = frames.read(&flood, || start + WITHIN - Duration::from_millis(1));
                assert_eq!(over, Err(Flood), "{flood:?} {cut}");
            }
        }
    }

    #[test]
    fn who_takes_its_time_and_who_asks_for_something_goes_on() {
        let start = Instant::now();
        let mut frames = Frames::new(start);
        frames.read(PREFACE, || start).unwrap();
        for round in 1..5 {
            frames.read(&times(AT_ONCE, &frame(6, 0, &[0; 8])), || start + WITHIN * round).unwrap();
        }
        for busy in [frame(1, 4, b"headers"), frame(0, 0, b"data"), frame(0, 1, &[]), frame(8, 0, &[0; 4])] {
            frames.read(&times(20_000, &busy), || start).unwrap();
        }
        let mut http1 = Frames::new(start);
        http1.read(b"GET / HTTP/1.1\r\n", || start).unwrap();
        http1.read(&times(20_000, &frame(6, 0, &[0; 8])), || start).unwrap();
    }
}
