//! Media: files to read and to write, packets to and from frames, and what is made while it is sent.

mod assembler;
mod clip;
mod codec;
pub(crate) mod dtmf;
mod feed;
mod h264;
mod ivf;
mod live;
mod ogg;
mod opus;
mod pattern;
mod recorder;
mod reorder;
mod vp8;
mod vp9;
mod wav;

pub(crate) use self::assembler::{Assembler, Assembly};
pub use self::clip::Clip;
pub use self::codec::Codec;
pub use self::dtmf::Tones;
pub(crate) use self::feed::Player;
pub use self::feed::{Feed, Feeds, Source};
pub(crate) use self::recorder::{Recording, Unit};
pub(crate) use self::reorder::Reorder;

use crate::report::MediaKind;

/// RTP clock of all video.
pub(crate) const VIDEO_CLOCK: u32 = 90_000;
/// RTP clock of Opus, RFC 7587, which is that of its granule positions too.
pub(crate) const AUDIO_CLOCK: u32 = 48_000;

/// Ticks per second of a kind's RTP timestamps.
pub(crate) fn clock_rate(kind: MediaKind) -> u32 {
    match kind {
        MediaKind::Video => VIDEO_CLOCK,
        MediaKind::Audio => AUDIO_CLOCK,
    }
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset}")]
pub(crate) struct BadFile {
    pub(crate) what: &'static str,
    pub(crate) offset: usize,
}

/// Bytes with a place in them, for readers that must say where something is wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(crate) offset: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.offset >= self.bytes.len()
    }

    pub(crate) fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], BadFile> {
        let end = self.offset.saturating_add(length);
        let taken = self.bytes.get(self.offset..end).ok_or(BadFile { what, offset: self.offset })?;
        self.offset = end;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], BadFile> {
        let offset = self.offset;
        self.take(N, what)?.try_into().map_err(|_| BadFile { what, offset })
    }
}
