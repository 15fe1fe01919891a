//! A clip to send: its frames with the time of each, read and checked before the call begins.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use super::{clock_rate, ivf, ogg, vp8};
use crate::failure::{Failure, Reason};
use crate::report::MediaKind;

/// Where what we send comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The clip that is part of this program.
    Test,
    /// Nothing is sent.
    None,
    /// VP8 in IVF, or Opus in Ogg.
    File(PathBuf),
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "test" => Self::Test,
            "none" => Self::None,
            path => Self::File(path.into()),
        })
    }
}

/// A frame and when it is due, in ticks of its RTP clock since the clip began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) data: Bytes,
    pub(crate) at: u64,
}

/// Frames in order, and how long they last together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clip {
    pub(crate) kind: MediaKind,
    pub(crate) frames: Vec<Frame>,
    /// In ticks; where the clip begins again.
    pub(crate) length: u64,
}

impl Clip {
    /// Reads a clip, or nothing where nothing is to be sent.
    pub fn load(kind: MediaKind, source: &Source) -> Result<Option<Arc<Self>>, Failure> {
        match source {
            Source::None => Ok(None),
            Source::Test => Self::read(kind, Path::new("(test clip)"), Self::test_bytes(kind)).map(Some),
            Source::File(path) => {
                let bytes = fs::read(path).map_err(|error| {
                    Failure::new(Reason::BadMedia, format!("{}: {error}", path.display()))
                })?;
                Self::read(kind, path, bytes.into()).map(Some)
            }
        }
    }

    fn read(kind: MediaKind, path: &Path, bytes: Bytes) -> Result<Arc<Self>, Failure> {
        let read = match kind {
            MediaKind::Video => ivf::read(&bytes),
            MediaKind::Audio => ogg::read(&bytes),
        };
        let clip =
            read.map_err(|error| Failure::new(Reason::BadMedia, format!("{}: {error}", path.display())))?;
        Ok(Arc::new(clip))
    }

    fn test_bytes(kind: MediaKind) -> Bytes {
        Bytes::from_static(match kind {
            MediaKind::Video => include_bytes!("../../media/test.ivf"),
            MediaKind::Audio => include_bytes!("../../media/test.ogg"),
        })
    }

    /// The first frame from this one on that leans on no other; after the last one, the first.
    pub(crate) fn next_key_frame(&self, index: usize) -> usize {
        let mut frames = self.frames.iter().enumerate().skip(index);
        frames.find(|(_, frame)| vp8::dimensions(&frame.data).is_some()).map_or(0, |(index, _)| index)
    }

    /// How long the clip is, in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.length as f64 / f64::from(clock_rate(self.kind))
    }
}

/// What to send of each kind.
#[derive(Debug, Clone, Default)]
pub struct Clips {
    /// Pictures.
    pub video: Option<Arc<Clip>>,
    /// Sound.
    pub audio: Option<Arc<Clip>>,
}

impl Clips {
    pub(crate) fn of(&self, kind: MediaKind) -> Option<Arc<Clip>> {
        match kind {
            MediaKind::Video => self.video.clone(),
            MediaKind::Audio => self.audio.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_clip_has_ten_seconds_of_both() {
        let video = Clip::load(MediaKind::Video, &Source::Test).unwrap().unwrap();
        let audio = Clip::load(MediaKind::Audio, &Source::Test).unwrap().unwrap();
        assert_eq!(video.frames.len(), 150);
        assert!((video.seconds() - 10.0).abs() < 0.001, "{}", video.seconds());
        assert!((audio.seconds() - 10.0).abs() < 0.05, "{}", audio.seconds());
        assert!(video.frames.iter().zip(video.frames.iter().skip(1)).all(|(one, next)| one.at < next.at));
    }

    #[test]
    fn a_key_frame_is_never_more_than_a_second_away() {
        let video = Clip::load(MediaKind::Video, &Source::Test).unwrap().unwrap();
        assert_eq!([0, 1, 15, 140].map(|index| video.next_key_frame(index)), [0, 15, 15, 0]);
    }

    #[test]
    fn a_file_of_the_wrong_kind_is_named_with_the_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("picture.ivf");
        fs::write(&path, b"GIF89a and so on").unwrap();
        let failure = Clip::load(MediaKind::Video, &Source::File(path)).unwrap_err();
        assert_eq!(failure.reason, Reason::BadMedia);
        assert!(failure.message.contains("picture.ivf") && failure.message.contains("byte 0"), "{failure}");
    }
}
