//! WAV, encoded to Opus as it is read.

use std::io;

use bytes::Bytes;
use hound::{SampleFormat, WavReader};

use super::clip::{Clip, Frame};
use super::codec::Codec;
use super::opus::OpusEncoder;
use super::{AUDIO_CLOCK, BadFile};

/// Reads a whole file of one or two channels, of any rate and depth.
pub(super) fn read(bytes: &Bytes) -> Result<Clip, BadFile> {
    let bad = |what| BadFile { what, offset: 0 };
    let reader = WavReader::new(io::Cursor::new(bytes)).map_err(|_| bad("the WAV header makes no sense"))?;
    let spec = reader.spec();
    let channels = usize::from(spec.channels);
    if !(1..=2).contains(&channels) {
        return Err(bad("neither mono nor stereo"));
    }
    if !(MIN_RATE..=MAX_RATE).contains(&spec.sample_rate) {
        return Err(bad("a rate that is not between 4 and 384 kHz"));
    }
    match spec.sample_format {
        SampleFormat::Int if (1..=32).contains(&spec.bits_per_sample) => {
            let full = f64::from(1u32 << (spec.bits_per_sample - 1));
            let samples = reader.into_samples::<i32>();
            encode(
                samples.map(|sample| sample.map(|sample| f64::from(sample) / full)),
                channels,
                spec.sample_rate,
            )
        }
        SampleFormat::Float => {
            let samples = reader.into_samples::<f32>();
            encode(samples.map(|sample| sample.map(f64::from)), channels, spec.sample_rate)
        }
        SampleFormat::Int => Err(bad("more than 32 bits a sample")),
    }
}

/// One packet after the other: an hour of samples would take gigabytes.
fn encode(
    samples: impl Iterator<Item = hound::Result<f64>>,
    channels: usize,
    rate: u32,
) -> Result<Clip, BadFile> {
    let bad = |what| BadFile { what, offset: 0 };
    let mut encoder = OpusEncoder::new(channels, BITS).map_err(|_| bad("the encoder does not start"))?;
    let mut frames = Vec::new();
    let mut sound = Vec::with_capacity(FRAME * channels);
    let mut moments = Resampler::new(samples, channels, rate);
    loop {
        let moment = moments
            .next()
            .transpose()
            .map_err(|_| bad("the samples are cut off, or of a kind that is not known"))?;
        sound.extend(moment.into_iter().flatten().take(channels));
        let is_last = moment.is_none() && !sound.is_empty();
        if sound.len() == FRAME * channels || is_last {
            sound.resize(FRAME * channels, 0);
            let data = encoder.encode(&sound).map_err(|_| bad("it cannot be encoded"))?;
            frames.push(Frame { data, at: frames.len() as u64 * FRAME as u64 });
            sound.clear();
        }
        if moment.is_none() {
            break;
        }
    }
    if frames.is_empty() {
        return Err(bad("there is no sound"));
    }
    let length = frames.len() as u64 * FRAME as u64;
    Ok(Clip { codec: Codec::Opus, frames, length })
}

/// To 48 kHz, straight from one sample to the next. A moment is a sample of each of at most two channels.
struct Resampler<I> {
    samples: I,
    channels: usize,
    rate: u64,
    /// The moment that was reached, its number, and the one after it.
    current: Option<[f64; 2]>,
    number: u64,
    following: Option<[f64; 2]>,
    /// Moments of 48 kHz so far.
    made: u64,
    has_begun: bool,
}

impl<I: Iterator<Item = hound::Result<f64>>> Resampler<I> {
    fn new(samples: I, channels: usize, rate: u32) -> Self {
        let rate = u64::from(rate);
        Self { samples, channels, rate, current: None, number: 0, following: None, made: 0, has_begun: false }
    }

    /// The next one of the file; half a moment at its end is none.
    fn read(&mut self) -> hound::Result<Option<[f64; 2]>> {
        let mut moment = [0.0; 2];
        for channel in moment.iter_mut().take(self.channels) {
            let Some(sample) = self.samples.next() else { return Ok(None) };
            *channel = sample?;
        }
        Ok(Some(moment))
    }

    fn advance(&mut self) -> hound::Result<Option<[i16; 2]>> {
        if !self.has_begun {
            self.has_begun = true;
            self.current = self.read()?;
            self.following = self.read()?;
        }
        let place = self.made * self.rate;
        let (wanted, past) = (place / u64::from(AUDIO_CLOCK), place % u64::from(AUDIO_CLOCK));
        while self.number < wanted && self.current.is_some() {
            self.current = self.following;
            self.following = if self.current.is_some() { self.read()? } else { None };
            self.number += 1;
        }
        let Some(one) = self.current else { return Ok(None) };
        if self.following.is_none() && self.made >= (self.number + 1) * u64::from(AUDIO_CLOCK) / self.rate {
            return Ok(None);
        }
        self.made += 1;
        let next = self.following.unwrap_or(one);
        let part = past as f64 / f64::from(AUDIO_CLOCK);
        let mut moment = [0; 2];
        for (moment, (one, next)) in moment.iter_mut().zip(one.into_iter().zip(next)) {
            let sample = (one + (next - one) * part) * f64::from(i16::MAX);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "it saturates, and what is no number is silence"
            )]
            let sample = sample as i16;
            *moment = sample;
        }
        Ok(Some(moment))
    }
}

impl<I: Iterator<Item = hound::Result<f64>>> Iterator for Resampler<I> {
    type Item = hound::Result<[i16; 2]>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

const MIN_RATE: u32 = 4_000;
const MAX_RATE: u32 = 384_000;
const BITS: u32 = 64_000;
/// Samples of 20 ms.
const FRAME: usize = AUDIO_CLOCK as usize / 50;

#[cfg(test)]
mod tests {
    use hound::{WavSpec, WavWriter};
    use proptest::prelude::*;

    use super::*;
    use crate::media::opus::packet_ticks;

    fn wav(channels: u16, sample_rate: u32, bits_per_sample: u16, moments: u32) -> Bytes {
        let spec = WavSpec { channels, sample_rate, bits_per_sample, sample_format: SampleFormat::Int };
        let mut file = io::Cursor::new(Vec::new());
        let mut writer = WavWriter::new(&mut file, spec).unwrap();
        for moment in 0..moments * u32::from(channels) {
            writer.write_sample(i32::try_from(moment % 100).unwrap()).unwrap();
        }
        writer.finalize().unwrap();
        file.into_inner().into()
    }

    #[test]
    fn a_second_of_any_rate_and_depth_is_a_second_of_opus() {
        for (channels, rate, bits) in [(1, 8_000, 8), (2, 44_100, 16), (1, 48_000, 24), (2, 96_000, 32)] {
            let clip = read(&wav(channels, rate, bits, rate)).unwrap();
            assert_eq!(clip.length, 48_000, "{channels} x {rate} x {bits}");
            assert!(clip.frames.iter().all(|frame| packet_ticks(&frame.data) == Some(960)));
        }
    }

    #[test]
    fn a_rate_that_does_not_fit_is_met_on_the_line_between_samples() {
        let ramp = [0.0, 0.2, 0.4, 0.6];
        let resampler = Resampler::new(ramp.into_iter().map(Ok), 1, 24_000);
        let sound: Vec<_> = resampler.map(|moment| moment.unwrap()[0]).collect();
        let wanted = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6];
        for (sample, wanted) in sound.iter().zip(wanted) {
            assert!((f64::from(*sample) / f64::from(i16::MAX) - wanted).abs() < 0.001, "{sound:?}");
        }
        assert_eq!(sound.len(), wanted.len());
    }

    #[test]
    fn what_cannot_be_sent_is_told_with_a_reason() {
        for (bytes, what) in [
            (wav(3, 48_000, 16, 9), "neither mono nor stereo"),
            (wav(1, 1_000, 16, 9), "a rate"),
            (wav(1, 48_000, 16, 0), "no sound"),
            (Bytes::from_static(b"RIFF"), "header"),
        ] {
            let error = read(&bytes).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_file_panics(flips in prop::collection::vec((0usize..60, any::<u8>()), 0..6), cut in 0usize..200) {
            let mut bytes = wav(1, 8_000, 16, 100).to_vec();
            for (place, value) in flips {
                bytes[place] = value;
            }
            bytes.truncate(bytes.len() - cut);
            let _ = read(&bytes.into());
        }
    }
}
