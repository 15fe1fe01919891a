//! A clip to send: its frames with the time of each, read and checked before the call begins.

use std::fmt;
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::codec::Codec;
use super::{clock_rate, h264, ivf, ogg, wav};
use crate::failure::{Failure, Reason};
use crate::report::MediaKind;

/// A frame and when it is due, in ticks of its RTP clock since the clip began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) data: Bytes,
    pub(crate) at: u64,
}

/// Frames in order, and how long they last together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clip {
    pub(crate) codec: Codec,
    pub(crate) frames: Vec<Frame>,
    /// In ticks; where the clip begins again.
    pub(crate) length: u64,
}

impl Clip {
    /// Reads a file: VP8 or VP9 in IVF, H.264 as a byte stream (Annex B), Opus in Ogg, or WAV, which is encoded.
    pub fn load(kind: MediaKind, path: &Path) -> Result<Arc<Self>, Failure> {
        let file_type = fs::metadata(path).map_err(|error| bad(path, error))?.file_type();
        if file_type.is_char_device() || file_type.is_block_device() {
            return Err(bad(path, "a device, and no file with an end"));
        }
        let bytes = fs::read(path).map_err(|error| bad(path, error))?;
        Self::read(kind, path, bytes.into())
    }

    /// The clip that is part of this program.
    pub(crate) fn test(kind: MediaKind) -> Result<Arc<Self>, Failure> {
        let bytes = Bytes::from_static(match kind {
            MediaKind::Video => include_bytes!("../../media/test.ivf"),
            MediaKind::Audio => include_bytes!("../../media/test.ogg"),
        });
        Self::read(kind, Path::new("(test clip)"), bytes)
    }

    fn read(kind: MediaKind, path: &Path, bytes: Bytes) -> Result<Arc<Self>, Failure> {
        if bytes.is_empty() {
            return Err(bad(path, "the file is empty"));
        }
        let read = match kind {
            MediaKind::Video if h264::is_byte_stream(&bytes) => h264::read(&bytes),
            MediaKind::Video => ivf::read(&bytes),
            MediaKind::Audio if bytes.starts_with(b"RIFF") => wav::read(&bytes),
            MediaKind::Audio => ogg::read(&bytes),
        };
        let clip = read.map_err(|error| bad(path, error))?;
        if !clip.frames.first().is_some_and(|first| clip.codec.is_key_frame(&first.data)) {
            return Err(bad(path, "the first picture leans on others, which are not there"));
        }
        Ok(Arc::new(clip))
    }

    /// The first frame from this one on that leans on no other; after the last one, the first.
    pub(crate) fn next_key_frame(&self, index: usize) -> usize {
        let mut frames = self.frames.iter().enumerate().skip(index);
        frames.find(|(_, frame)| self.codec.is_key_frame(&frame.data)).map_or(0, |(index, _)| index)
    }

    /// How it is compressed.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// How long the clip is, in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.length as f64 / f64::from(clock_rate(self.codec.kind()))
    }
}

fn bad(path: &Path, what: impl fmt::Display) -> Failure {
    Failure::new(Reason::BadMedia, format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_clip_has_ten_seconds_of_both() {
        let video = Clip::test(MediaKind::Video).unwrap();
        let audio = Clip::test(MediaKind::Audio).unwrap();
        assert_eq!(video.frames.len(), 150);
        assert!((video.seconds() - 10.0).abs() < 0.001, "{}", video.seconds());
        assert!((audio.seconds() - 10.0).abs() < 0.05, "{}", audio.seconds());
        assert!(video.frames.iter().zip(video.frames.iter().skip(1)).all(|(one, next)| one.at < next.at));
    }

    #[test]
    fn a_key_frame_is_never_more_than_a_second_away() {
        let video = Clip::test(MediaKind::Video).unwrap();
        assert_eq!([0, 1, 15, 140].map(|index| video.next_key_frame(index)), [0, 15, 15, 0]);
    }

    #[test]
    fn a_file_of_the_wrong_kind_is_named_with_the_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("picture.ivf");
        fs::write(&path, b"GIF89a and so on").unwrap();
        let failure = Clip::load(MediaKind::Video, &path).unwrap_err();
        assert_eq!(failure.reason, Reason::BadMedia);
        assert!(failure.message.contains("picture.ivf") && failure.message.contains("byte 0"), "{failure}");
    }
}
