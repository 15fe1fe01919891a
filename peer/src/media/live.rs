//! Pictures and sound that are made and encoded while they are sent.

use std::ffi::{c_int, c_uint};
use std::fmt;

use openh264::OpenH264API;
use openh264::encoder::{
    BitRate, Encoder, EncoderConfig, FrameRate, IntraFramePeriod, Profile, RateControlMode, UsageType,
};
use openh264::formats::YUVSlices;

use super::feed::Next;
use super::opus::OpusEncoder;
use super::pattern::{self, Pattern};
use super::{AUDIO_CLOCK, VIDEO_CLOCK};
use crate::report::MediaKind;

/// See the module.
pub(super) enum Live {
    /// A test pattern with a clock, in H.264.
    Picture { pattern: Box<Pattern>, encoder: Box<Encoder>, rate: Rate, number: u64 },
    /// A beep at the beginning of each second, in Opus.
    Sound { encoder: OpusEncoder, number: u64 },
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Picture { .. } => "Picture",
            Self::Sound { .. } => "Sound",
        })
    }
}

impl Live {
    pub(super) fn new(kind: MediaKind) -> Result<Self, String> {
        Ok(match kind {
            MediaKind::Video => {
                let rate = Rate::default();
                let encoder = Box::new(encoder(rate.bits)?);
                Self::Picture { pattern: Box::default(), encoder, rate, number: 0 }
            }
            MediaKind::Audio => Self::Sound { encoder: OpusEncoder::new(1, AUDIO_BITS)?, number: 0 },
        })
    }

    /// What pictures may take, in bits per second; see [`Rate`].
    pub(super) fn aim_at(&mut self, bits: u32) {
        if let Self::Picture { rate, .. } = self {
            rate.aim_at(bits);
        }
    }

    /// What pictures are encoded for, in bits per second.
    pub(super) fn rate(&self) -> Option<u32> {
        match self {
            Self::Picture { rate, .. } => Some(rate.bits),
            Self::Sound { .. } => None,
        }
    }

    /// The next frame, which leans on no other if that is asked for.
    pub(super) fn next(&mut self, key_frame: bool) -> Result<Next, String> {
        match self {
            Self::Picture { pattern, encoder, rate, number } => {
                if let Some(bits) = rate.next() {
                    **encoder = self::encoder(bits)?;
                } else if key_frame {
                    encoder.force_intra_frame();
                }
                let [y, u, v] = pattern.draw(*number * 1000 / PICTURES);
                *number += 1;
                let picture = YUVSlices::new(
                    (y, u, v),
                    (pattern::WIDTH, pattern::HEIGHT),
                    (pattern::WIDTH, pattern::WIDTH / 2, pattern::WIDTH / 2),
                );
                let encoded = encoder.encode(&picture).map_err(|error| error.to_string())?;
                Ok(Next { data: encoded.to_vec().into(), ticks: u64::from(VIDEO_CLOCK) / PICTURES })
            }
            Self::Sound { encoder, number } => {
                let begins = *number * SOUND_TICKS;
                *number += 1;
                let sound: Vec<i16> = (begins..begins + SOUND_TICKS).map(sample).collect();
                Ok(Next { data: encoder.encode(&sound)?, ticks: SOUND_TICKS })
            }
        }
    }
}

/// It cannot change its rate in the middle: another one goes on with a picture that leans on no other.
fn encoder(bits: u32) -> Result<Encoder, String> {
    let config = EncoderConfig::new()
        .profile(Profile::Baseline)
        .usage_type(UsageType::CameraVideoRealTime)
        .rate_control_mode(RateControlMode::Bitrate)
        .bitrate(BitRate::from_bps(bits))
        .max_frame_rate(FrameRate::from_hz(PICTURES as f32))
        .intra_frame_period(IntraFramePeriod::from_num_frames(KEY_FRAME_EVERY))
        .scene_change_detect(false)
        .skip_frames(false);
    let encoder = Encoder::with_api_config(OpenH264API::from_source(), config);
    let mut encoder = encoder.map_err(|error| error.to_string())?;
    silence(&mut encoder);
    Ok(encoder)
}

/// Otherwise it begins with a warning on stderr that its rate is not exact where no picture may be skipped.
#[expect(unsafe_code, reason = "the library sets it only after that")]
fn silence(encoder: &mut Encoder) {
    let mut level: c_uint = LOG_NOTHING;
    // SAFETY: nothing is done to the encoder but to set an option.
    let raw = unsafe { encoder.raw_api() };
    // SAFETY: the option is read as an unsigned int within the call, and may be set before anything else.
    unsafe { raw.set_option(OPTION_TRACE_LEVEL, (&raw mut level).cast()) };
}

/// What pictures are encoded for. Each change costs a whole picture, so small ones are not followed, and more is taken
/// only when it has been there for a while; less, nearly at once.
#[derive(Debug)]
pub(super) struct Rate {
    /// In bits per second.
    bits: u32,
    wanted: u32,
    /// Frames since the last change.
    kept: u64,
}

impl Default for Rate {
    fn default() -> Self {
        Self { bits: VIDEO_BITS, wanted: VIDEO_BITS, kept: 0 }
    }
}

impl Rate {
    fn aim_at(&mut self, bits: u32) {
        self.wanted = bits.clamp(LEAST_VIDEO_BITS, MOST_VIDEO_BITS);
    }

    /// A frame is due: the rate that begins with it, if it is another one.
    fn next(&mut self) -> Option<u32> {
        self.kept += 1;
        let less = self.wanted < self.bits / 100 * 85 && self.kept >= PICTURES / 3;
        let more = self.wanted > self.bits / 100 * 120 && self.kept >= PICTURES * 3;
        if !less && !more {
            return None;
        }
        (self.bits, self.kept) = (self.wanted, 0);
        Some(self.bits)
    }
}

/// One thousand hertz for a tenth of a second, at the beginning of each.
fn sample(at: u64) -> i16 {
    let at = at % u64::from(AUDIO_CLOCK);
    if at >= BEEP {
        return 0;
    }
    let turn = at as f64 * 1000.0 / f64::from(AUDIO_CLOCK);
    #[expect(clippy::cast_possible_truncation, reason = "a third of the range")]
    let sample = ((turn * std::f64::consts::TAU).sin() * f64::from(i16::MAX) / 3.0) as i16;
    sample
}

/// `ENCODER_OPTION_TRACE_LEVEL` and `WELS_LOG_QUIET` of openh264.
const OPTION_TRACE_LEVEL: c_int = 25;
const LOG_NOTHING: c_uint = 0;
const PICTURES: u64 = 30;
/// In bits per second, to begin with.
const VIDEO_BITS: u32 = 600_000;
/// Bars and a clock that can be read.
const LEAST_VIDEO_BITS: u32 = 60_000;
/// More does not make it better.
const MOST_VIDEO_BITS: u32 = 1_500_000;
const AUDIO_BITS: u32 = 32_000;
/// Whoever joins or loses something asks for one; this is for those who do not.
const KEY_FRAME_EVERY: u32 = 300;
/// 20 ms.
const SOUND_TICKS: u64 = AUDIO_CLOCK as u64 / 50;
const BEEP: u64 = AUDIO_CLOCK as u64 / 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Codec;
    use crate::media::opus::packet_ticks;

    #[test]
    fn pictures_are_h264_of_the_patterns_size_and_much_smaller() {
        let mut live = Live::new(MediaKind::Video).unwrap();
        let frames: Vec<Next> = (0..30).map(|_| live.next(false).unwrap()).collect();
        assert_eq!(Codec::H264.dimensions(&frames[0].data), Some((640, 360)));
        let bytes: usize = frames.iter().map(|frame| frame.data.len()).sum();
        assert!((5_000..150_000).contains(&bytes), "a second of pictures took {bytes} bytes");
        assert!(frames.iter().all(|frame| frame.ticks == 3000));
    }

    #[test]
    fn pictures_take_what_they_may_and_a_change_begins_with_a_whole_one() {
        let mut live = Live::new(MediaKind::Video).unwrap();
        let mut second = |bits| {
            live.aim_at(bits);
            let frames: Vec<Next> = (0..90).map(|_| live.next(false).unwrap()).collect();
            let whole = frames.iter().filter(|frame| Codec::H264.is_key_frame(&frame.data)).count();
            (
                frames.iter().skip(60).map(|frame| frame.data.len() * 8).sum::<usize>(),
                whole,
                live.rate().unwrap(),
            )
        };
        let (first, ..) = second(600_000);
        assert!((300_000..900_000).contains(&first), "{first} bits a second of 600 000");
        let (less, whole, rate) = second(150_000);
        assert!((40_000..220_000).contains(&less), "{less} bits a second of 150 000");
        assert_eq!((whole, rate), (1, 150_000));
        let (_, whole, rate) = second(160_000);
        assert_eq!((whole, rate), (0, 150_000), "a small change is not worth it");
        second(1_000_000);
        let (more, _, rate) = second(1_000_000);
        assert_eq!(rate, 1_000_000);
        assert!(more > 3 * less, "{more} bits a second of 1 000 000");
    }

    #[test]
    fn sound_is_opus_and_louder_where_it_beeps() {
        let mut live = Live::new(MediaKind::Audio).unwrap();
        let packets: Vec<Next> = (0..50).map(|_| live.next(false).unwrap()).collect();
        assert!(packets.iter().all(|packet| packet_ticks(&packet.data) == Some(packet.ticks)));
        assert_ne!(sample(12), 0);
        assert_eq!(sample(BEEP + 12), 0);
        assert_eq!(sample(u64::from(AUDIO_CLOCK) + 12), sample(12));
    }
}
