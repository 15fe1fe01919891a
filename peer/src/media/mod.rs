//! Media in files: VP8 in IVF and Opus in Ogg, read to be sent and written as it comes.

mod clip;
pub(crate) mod dtmf;
mod ivf;
mod ogg;
mod opus;
mod recorder;
mod reorder;
mod vp8;

pub use self::clip::{Clip, Clips, Source};
pub use self::dtmf::Tones;
pub(crate) use self::recorder::{Recording, Unit};
pub(crate) use self::reorder::Reorder;
pub(crate) use self::vp8::{Assembler, Assembly};

use crate::report::MediaKind;

/// RTP clock of VP8, RFC 7741.
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
