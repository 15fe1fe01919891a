//! The codecs that are sent and taken, and what must be known of their frames.

use super::{h264, vp8, vp9};
use crate::report::MediaKind;

/// How media is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// RFC 6386.
    Vp8,
    /// Profile 0.
    Vp9,
    /// Constrained Baseline.
    H264,
    /// RFC 6716.
    Opus,
}

impl Codec {
    /// All of a kind, the one that everybody has first.
    pub(crate) fn of(kind: MediaKind) -> &'static [Self] {
        match kind {
            MediaKind::Video => &[Self::Vp8, Self::Vp9, Self::H264],
            MediaKind::Audio => &[Self::Opus],
        }
    }

    /// By its name in a session description.
    pub(crate) fn of_mime_type(name: &str) -> Option<Self> {
        let all = [Self::Vp8, Self::Vp9, Self::H264, Self::Opus];
        all.into_iter().find(|codec| codec.mime_type().eq_ignore_ascii_case(name))
    }

    pub(crate) fn mime_type(self) -> &'static str {
        match self {
            Self::Vp8 => "video/VP8",
            Self::Vp9 => "video/VP9",
            Self::H264 => "video/H264",
            Self::Opus => "audio/opus",
        }
    }

    /// As people know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::H264 => "H.264",
            Self::Opus => "Opus",
        }
    }

    pub(crate) fn kind(self) -> MediaKind {
        match self {
            Self::Vp8 | Self::Vp9 | Self::H264 => MediaKind::Video,
            Self::Opus => MediaKind::Audio,
        }
    }

    /// Width and height, where a frame leans on no other and tells them.
    pub(crate) fn dimensions(self, frame: &[u8]) -> Option<(u16, u16)> {
        match self {
            Self::Vp8 => vp8::dimensions(frame),
            Self::Vp9 => vp9::dimensions(frame),
            Self::H264 => h264::dimensions(frame),
            Self::Opus => None,
        }
    }

    /// Whether a frame leans on no other.
    pub(crate) fn is_key_frame(self, frame: &[u8]) -> bool {
        match self {
            Self::Vp8 | Self::Vp9 => self.dimensions(frame).is_some(),
            Self::H264 => h264::is_key_frame(frame),
            Self::Opus => true,
        }
    }
}
