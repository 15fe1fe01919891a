//! Where what is sent comes from: a clip over and over, or made while it is sent.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;

use super::clip::Clip;
use super::codec::Codec;
use super::live::Live;
use crate::failure::Failure;
use crate::report::MediaKind;

/// Where what we send comes from, as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The clip that is part of this program.
    Test,
    /// A test pattern with a running clock, and a beep each second.
    Live,
    /// Nothing is sent.
    None,
    /// See [`Clip::load`].
    File(PathBuf),
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "test" => Self::Test,
            "live" => Self::Live,
            "none" => Self::None,
            path => Self::File(path.into()),
        })
    }
}

/// Something to send.
#[derive(Debug, Clone)]
pub enum Feed {
    /// Over and over.
    Clip(Arc<Clip>),
    /// A test pattern or a beep, encoded while it is sent.
    Live(MediaKind),
}

impl Feed {
    /// Opens a source; nothing where nothing is to be sent.
    pub fn open(kind: MediaKind, source: &Source) -> Result<Option<Self>, Failure> {
        Ok(match source {
            Source::None => None,
            Source::Live => Some(Self::Live(kind)),
            Source::Test => Some(Self::Clip(Clip::test(kind)?)),
            Source::File(path) => Some(Self::Clip(Clip::load(kind, path)?)),
        })
    }

    /// How it is compressed.
    #[must_use]
    pub fn codec(&self) -> Codec {
        match self {
            Self::Clip(clip) => clip.codec,
            Self::Live(MediaKind::Video) => Codec::H264,
            Self::Live(MediaKind::Audio) => Codec::Opus,
        }
    }
}

/// What to send of each kind.
#[derive(Debug, Clone, Default)]
pub struct Feeds {
    /// Pictures.
    pub video: Option<Feed>,
    /// Sound.
    pub audio: Option<Feed>,
}

impl Feeds {
    pub(crate) fn of(&self, kind: MediaKind) -> Option<Feed> {
        match kind {
            MediaKind::Video => self.video.clone(),
            MediaKind::Audio => self.audio.clone(),
        }
    }

    pub(crate) fn set(&mut self, kind: MediaKind, feed: Option<Feed>) {
        match kind {
            MediaKind::Video => self.video = feed,
            MediaKind::Audio => self.audio = feed,
        }
    }
}

/// A feed that is being sent.
#[derive(Debug)]
pub(crate) struct Player(Playing);

#[derive(Debug)]
enum Playing {
    Clip {
        clip: Arc<Clip>,
        index: usize,
    },
    Live {
        /// Away while it encodes.
        live: Option<Live>,
        wants_key_frame: bool,
    },
}

/// The next frame, and for how many ticks it is shown or sounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) data: Bytes,
    pub(crate) ticks: u64,
}

impl Player {
    pub(crate) fn new(feed: &Feed) -> Result<Self, String> {
        Ok(Self(match feed {
            Feed::Clip(clip) => Playing::Clip { clip: Arc::clone(clip), index: 0 },
            Feed::Live(kind) => Playing::Live { live: Some(Live::new(*kind)?), wants_key_frame: false },
        }))
    }

    /// Makes the next frame one that leans on no other.
    pub(crate) fn want_key_frame(&mut self) {
        match &mut self.0 {
            Playing::Clip { clip, index } => *index = clip.next_key_frame(*index),
            Playing::Live { wants_key_frame, .. } => *wants_key_frame = true,
        }
    }

    /// What pictures may take from now on, in bits per second; clips are what they are.
    pub(crate) fn aim_at(&mut self, bits: u32) {
        if let Playing::Live { live: Some(live), .. } = &mut self.0 {
            live.aim_at(bits);
        }
    }

    /// What pictures are encoded for, in bits per second.
    pub(crate) fn rate(&self) -> Option<u32> {
        match &self.0 {
            Playing::Live { live, .. } => live.as_ref()?.rate(),
            Playing::Clip { .. } => None,
        }
    }

    /// The next frame; an error is the end.
    pub(crate) async fn next(&mut self) -> Result<Next, String> {
        match &mut self.0 {
            Playing::Clip { clip, index } => {
                let frame = clip.frames.get(*index).ok_or("the clip is empty")?;
                let until = clip.frames.get(*index + 1).map_or(clip.length, |next| next.at);
                *index = (*index + 1) % clip.frames.len();
                Ok(Next { data: frame.data.clone(), ticks: until - frame.at })
            }
            Playing::Live { live, wants_key_frame } => {
                let mut encoding = live.take().ok_or("the encoder was lost")?;
                let key_frame = std::mem::take(wants_key_frame);
                let encoded = tokio::task::spawn_blocking(move || {
                    let next = encoding.next(key_frame);
                    (encoding, next)
                });
                let (encoding, next) = encoded.await.map_err(|error| error.to_string())?;
                *live = Some(encoding);
                next
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::clip::Frame;

    #[tokio::test]
    async fn a_clip_begins_again_at_its_end() {
        let frame = |at: u64| Frame { data: vec![u8::try_from(at).unwrap()].into(), at };
        let clip = Clip { codec: Codec::Opus, frames: vec![frame(0), frame(3), frame(4)], length: 9 };
        let mut player = Player::new(&Feed::Clip(Arc::new(clip))).unwrap();
        let mut played = Vec::new();
        for _ in 0..5 {
            let next = player.next().await.unwrap();
            played.push((next.data[0], next.ticks));
        }
        assert_eq!(played, [(0, 3), (3, 1), (4, 5), (0, 3), (3, 1)]);
    }

    #[tokio::test]
    async fn a_key_frame_that_is_wanted_is_the_next() {
        for feed in [Feed::Clip(Clip::test(MediaKind::Video).unwrap()), Feed::Live(MediaKind::Video)] {
            let mut player = Player::new(&feed).unwrap();
            let mut key_frames = Vec::new();
            for index in 0..6 {
                if index == 4 {
                    player.want_key_frame();
                }
                key_frames.push(feed.codec().is_key_frame(&player.next().await.unwrap().data));
            }
            assert_eq!(key_frames, [true, false, false, false, true, false], "{:?}", feed.codec());
        }
    }
}
