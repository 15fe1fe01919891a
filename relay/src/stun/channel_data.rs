//! ChannelData: four bytes in front of application data. RFC 8656, section 12.4.

use std::fmt;

use super::{padded, u16_at};

/// Bytes of channel number and length in front of the data.
pub const HEADER_BYTES: usize = 4;

/// A channel number that may stand on the wire, 0x4000 to 0x7FFF. Which of them may be bound is the server's rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// `None` for what cannot be told from STUN.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number >= 0x4000 && number <= 0x7FFF { Some(Self(number)) } else { None }
    }

    /// The 16 bits.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Whether RFC 8656 lets a client bind it; the range of RFC 5766 was larger.
    #[must_use]
    pub const fn is_in_rfc8656_range(self) -> bool {
        self.0 <= 0x4FFF
    }
}

impl fmt::Display for ChannelNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// One ChannelData message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// Whose data.
    pub channel: ChannelNumber,
    /// The data, without padding.
    pub data: &'a [u8],
}

impl<'a> ChannelData<'a> {
    /// Reads a datagram or a frame; bytes after the data are padding and ignored, as the RFC says.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let channel = ChannelNumber::new(u16_at(bytes, 0)?)?;
        let length = usize::from(u16_at(bytes, 2)?);
        let data = bytes.get(HEADER_BYTES..)?.get(..length)?;
        Some(Self { channel, data })
    }
}

/// The four bytes in front of `length` bytes of data. `None` if that is more than 16 bits can say.
#[must_use]
pub fn header(channel: ChannelNumber, length: usize) -> Option<[u8; HEADER_BYTES]> {
    let [channel_high, channel_low] = channel.0.to_be_bytes();
    let [length_high, length_low] = u16::try_from(length).ok()?.to_be_bytes();
    Some([channel_high, channel_low, length_high, length_low])
}

/// Zero bytes that follow `length` bytes of data on a stream, where frames are aligned.
#[must_use]
pub fn stream_padding(length: usize) -> &'static [u8] {
    const ZEROS: &[u8] = &[0; 3];
    ZEROS.get(..padded(length) - length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn channel_data_cut_short_or_outside_the_range_is_none() {
        assert_eq!(ChannelData::parse(&[0x40, 0, 0, 1]), None);
        assert_eq!(ChannelData::parse(&[0x40, 0, 0]), None);
        assert_eq!(ChannelData::parse(&[0x80, 0, 0, 0]), None);
        assert_eq!(ChannelData::parse(&[0x3f, 0xff, 0, 0]), None);
        assert!(ChannelData::parse(&[0x40, 0, 0, 0]).is_some(), "no data is data");
    }

    #[test]
    fn padding_fills_up_to_four_with_zeros() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(|length| stream_padding(length).len()), [0, 3, 2, 1, 0, 3]);
        assert!((0..8).all(|length| stream_padding(length).iter().all(|byte| *byte == 0)));
    }

    proptest! {
        #[test]
        fn all_data_survives_the_round_trip(number in 0x4000u16..0x8000, data: Vec<u8>, padding in 0usize..4) {
            let channel = ChannelNumber::new(number).unwrap();
            let mut bytes = header(channel, data.len()).unwrap().to_vec();
            bytes.extend_from_slice(&data);
            bytes.resize(bytes.len() + padding, 0xff);
            prop_assert_eq!(ChannelData::parse(&bytes), Some(ChannelData { channel, data: &data }));
        }
    }
}
