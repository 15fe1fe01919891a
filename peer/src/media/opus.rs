//! Opus: how long a packet sounds, which its first bytes tell (RFC 6716, section 3.1), and making packets.

use bytes::Bytes;
use ropus::{Application, Bitrate, Channels, Encoder};

use super::AUDIO_CLOCK;

/// In ticks of 48 kHz; nothing if the packet is malformed.
pub(crate) fn packet_ticks(packet: &[u8]) -> Option<u64> {
    let toc = *packet.first()?;
    let config = usize::from(toc >> 3);
    let frame = match config {
        0..12 => *SILK.get(config % 4)?,
        12..16 => *HYBRID.get(config % 2)?,
        _ => *CELT.get(config % 4)?,
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u64::from(packet.get(1)? & 0x3f),
    };
    let ticks = frame * frames;
    // A packet holds something, and at most 120 ms of it.
    (1..=5760).contains(&ticks).then_some(ticks)
}

/// Makes packets of samples at 48 kHz.
pub(super) struct OpusEncoder {
    encoder: Box<Encoder>,
    packet: Vec<u8>,
}

impl OpusEncoder {
    /// For one or two channels.
    pub(super) fn new(channels: usize, bits_per_second: u32) -> Result<Self, String> {
        let channels = if channels == 1 { Channels::Mono } else { Channels::Stereo };
        let bitrate = Bitrate::try_bits(bits_per_second).map_err(|error| error.to_string())?;
        let encoder = Encoder::builder(AUDIO_CLOCK, channels, Application::Audio).bitrate(bitrate).build();
        let encoder = encoder.map_err(|error| error.to_string())?;
        Ok(Self { encoder: Box::new(encoder), packet: vec![0; LARGEST_PACKET] })
    }

    /// Encodes 20 ms, channels in turn.
    pub(super) fn encode(&mut self, sound: &[i16]) -> Result<Bytes, String> {
        let length = self.encoder.encode(sound, &mut self.packet).map_err(|error| error.to_string())?;
        Ok(Bytes::copy_from_slice(self.packet.get(..length).unwrap_or_default()))
    }
}

/// RFC 6716, section 3.4: what a packet of one frame has at most, with its first byte.
const LARGEST_PACKET: usize = 1276;
const SILK: [u64; 4] = [480, 960, 1920, 2880];
const HYBRID: [u64; 2] = [480, 960];
const CELT: [u64; 4] = [120, 240, 480, 960];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_length() {
        // CELT 20 ms, one frame; hybrid 10 ms, two frames; SILK 60 ms, one frame; CELT 2.5 ms, five frames.
        let packets: [&[u8]; 4] = [&[31 << 3], &[12 << 3 | 1], &[3 << 3], &[16 << 3 | 3, 5]];
        assert_eq!(packets.map(packet_ticks), [Some(960), Some(960), Some(2880), Some(600)]);
    }

    #[test]
    fn malformed_packets_have_no_length() {
        // Nothing; a frame count without its byte; no frame; more than 120 ms.
        let packets: [&[u8]; 4] = [&[], &[3], &[3, 0], &[3 << 3 | 3, 3]];
        assert_eq!(packets.map(packet_ticks), [None; 4]);
    }
}
