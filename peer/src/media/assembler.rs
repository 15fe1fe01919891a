//! From RTP packets in order to frames.

use bytes::{Bytes, BytesMut};

use super::codec::Codec;
use super::{h264, vp8, vp9};

/// Puts frames together from packets that come in order.
#[derive(Debug)]
pub(crate) struct Assembler {
    codec: Codec,
    frame: BytesMut,
    timestamp: u64,
    /// The frame being put together has its beginning.
    begun: bool,
    /// Frames lean on those before them: after a loss the next key frame is the first to make sense.
    needs_key_frame: bool,
    started: bool,
    /// As the last key frame that told them had them.
    dimensions: Option<(u16, u16)>,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Assembly {
    /// The frame goes on.
    Pending,
    /// A whole frame, due at this tick; key frames have dimensions.
    Frame { at: u64, data: Bytes, dimensions: Option<(u16, u16)> },
    /// Nothing can be made of this until a key frame comes.
    NeedsKeyFrame,
}

/// What a packet has of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Bytes, of which some codecs tell whether they are the first.
    Part { begins: bool, data: &'a [u8] },
    /// A unit of a byte stream or its beginning, with the header where that is not part of the data.
    Unit { header: Option<u8>, data: &'a [u8] },
    /// Whole units.
    Units(Vec<&'a [u8]>),
    /// More of the last unit.
    More(&'a [u8]),
}

impl Assembler {
    pub(crate) fn new(codec: Codec) -> Self {
        Self {
            codec,
            frame: BytesMut::new(),
            timestamp: 0,
            begun: false,
            needs_key_frame: false,
            started: false,
            dimensions: None,
        }
    }

    /// Takes the next packet; `lost` says that some before it never came.
    pub(crate) fn handle_packet(&mut self, at: u64, marker: bool, lost: bool, payload: &[u8]) -> Assembly {
        if lost {
            self.begun = false;
            self.needs_key_frame = true;
        }
        let piece = match self.codec {
            Codec::Vp8 => vp8::piece(payload),
            Codec::Vp9 => vp9::piece(payload),
            Codec::H264 => h264::piece(payload),
            Codec::Opus => None,
        };
        let Some(piece) = piece else { return Assembly::Pending };
        let begins = match &piece {
            Piece::Part { begins, .. } => *begins,
            // Units do not tell; the first of a new time is the first of a frame, unless what was before it is lost.
            Piece::Unit { .. } | Piece::Units(_) => {
                let is_first = !self.begun || self.timestamp != at;
                let unsure = self.needs_key_frame || !self.started;
                is_first && (!unsure || h264::may_begin_picture(&piece))
            }
            Piece::More(_) => false,
        };
        if begins {
            // The end of the frame before was lost, or its sender marks none.
            self.needs_key_frame |= self.begun;
            self.frame.clear();
            self.begun = true;
            self.timestamp = at;
        } else if self.timestamp != at {
            self.begun = false;
        }
        if !self.begun {
            return self.missing();
        }
        match piece {
            Piece::Part { data, .. } | Piece::More(data) => self.frame.extend_from_slice(data),
            Piece::Unit { header, data } => h264::append(&mut self.frame, header, data),
            Piece::Units(units) => {
                for unit in units {
                    h264::append(&mut self.frame, None, unit);
                }
            }
        }
        if self.frame.len() > LARGEST_FRAME {
            self.begun = false;
            return self.missing();
        }
        if !marker {
            return Assembly::Pending;
        }
        self.begun = false;
        let dimensions = self.dimensions_of_key_frame();
        if (self.needs_key_frame || !self.started) && dimensions.is_none() {
            return Assembly::NeedsKeyFrame;
        }
        self.needs_key_frame = false;
        self.started = true;
        Assembly::Frame { at, data: self.frame.split().freeze(), dimensions }
    }

    /// A key frame may count on parameters that came before it.
    fn dimensions_of_key_frame(&mut self) -> Option<(u16, u16)> {
        self.dimensions = self.codec.dimensions(&self.frame).or(self.dimensions);
        self.dimensions.filter(|_| self.codec.is_key_frame(&self.frame))
    }

    fn missing(&mut self) -> Assembly {
        self.needs_key_frame = true;
        Assembly::NeedsKeyFrame
    }
}

/// Far more than any picture takes; a sender that never ends its frame must not fill our memory.
const LARGEST_FRAME: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &[u8] = &[0x10, 0, 0, 0x9d, 0x01, 0x2a, 64, 1, 180, 0, 1, 2, 3];
    const BEGINS: u8 = 0x10;

    fn packet(descriptor: u8, data: &[u8]) -> Vec<u8> {
        [&[descriptor], data].concat()
    }

    fn delta() -> Vec<u8> {
        packet(BEGINS, &[1, 2, 3])
    }

    #[test]
    fn a_frame_of_two_packets_is_put_together() {
        let mut assembler = Assembler::new(Codec::Vp8);
        let (one, two) = KEY.split_at(11);
        assert_eq!(assembler.handle_packet(0, false, false, &packet(BEGINS, one)), Assembly::Pending);
        let done = assembler.handle_packet(0, true, false, &packet(0, two));
        let data = Bytes::from_static(KEY);
        assert_eq!(done, Assembly::Frame { at: 0, data, dimensions: Some((320, 180)) });
    }

    #[test]
    fn nothing_is_shown_before_the_first_key_frame() {
        let mut assembler = Assembler::new(Codec::Vp8);
        assert_eq!(assembler.handle_packet(0, true, false, &delta()), Assembly::NeedsKeyFrame);
    }

    #[test]
    fn after_a_loss_frames_are_left_out_until_a_key_frame() {
        let mut assembler = Assembler::new(Codec::Vp8);
        let is_frame = |assembly| matches!(assembly, Assembly::Frame { .. });
        assert!(is_frame(assembler.handle_packet(0, true, false, &packet(BEGINS, KEY))));
        assert!(is_frame(assembler.handle_packet(1, true, false, &delta())));
        assert_eq!(assembler.handle_packet(3, true, true, &delta()), Assembly::NeedsKeyFrame);
        assert_eq!(assembler.handle_packet(4, true, false, &delta()), Assembly::NeedsKeyFrame);
        assert!(is_frame(assembler.handle_packet(5, true, false, &packet(BEGINS, KEY))));
        assert!(is_frame(assembler.handle_packet(6, true, false, &delta())));
    }

    #[test]
    fn units_and_fragments_become_a_byte_stream() {
        let mut assembler = Assembler::new(Codec::H264);
        // A picture that leans on others: after a unit a fragment in three packets.
        assembler.started = true;
        for payload in [&[0x06, 1][..], &[0x7c, 0x81, 2], &[0x7c, 0x01, 3]] {
            assert_eq!(assembler.handle_packet(9, false, false, payload), Assembly::Pending);
        }
        let done = assembler.handle_packet(9, true, false, &[0x7c, 0x41, 4]);
        let data = Bytes::from_static(&[0, 0, 0, 1, 0x06, 1, 0, 0, 0, 1, 0x61, 2, 3, 4]);
        assert_eq!(done, Assembly::Frame { at: 9, data, dimensions: None });
        // The beginning of a fragment never came.
        assert_eq!(assembler.handle_packet(10, true, false, &[0x7c, 0x41, 4]), Assembly::NeedsKeyFrame);
    }

    #[test]
    fn a_key_frame_without_its_first_slice_is_none() {
        let parameters: &[u8] = &[
            0x78, 0, 25, 0x67, 0x42, 0xc0, 0x1e, 0xd9, 0, 0xa0, 0x2f, 0xf9, 0x70, 0x11, 0, 0, 3, 0, 1, 0, 0,
            3, 0, 0x1e, 0x0f, 0x16, 0x2e, 0x48, 0, 2, 0x68, 0xcb,
        ];
        let (first, second) = (&[0x65, 0x88, 1][..], &[0x65, 0x41, 2][..]);
        let mut assembler = Assembler::new(Codec::H264);
        let mut take = |at, marker, lost, payload| assembler.handle_packet(at, marker, lost, payload);
        assert_eq!(take(0, false, false, parameters), Assembly::Pending);
        assert_eq!(take(0, false, false, first), Assembly::Pending);
        assert!(matches!(take(0, true, false, second), Assembly::Frame { dimensions: Some((640, 360)), .. }));
        // The parameters have not changed, but the upper half of the picture is gone; and then one that is whole.
        assert_eq!(take(1, false, true, second), Assembly::NeedsKeyFrame);
        assert_eq!(take(1, true, false, second), Assembly::NeedsKeyFrame);
        assert_eq!(take(2, false, true, first), Assembly::Pending);
        assert!(matches!(take(2, true, false, second), Assembly::Frame { .. }));
    }

    proptest! {
        #[test]
        fn no_packets_panic(
            codec in prop::sample::select(&[Codec::Vp8, Codec::Vp9, Codec::H264][..]),
            packets in prop::collection::vec((0u64..3, any::<bool>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..12)), 0..30),
        ) {
            let mut assembler = Assembler::new(codec);
            for (at, marker, lost, payload) in packets {
                let _ = assembler.handle_packet(at, marker, lost, &payload);
            }
        }
    }
}
