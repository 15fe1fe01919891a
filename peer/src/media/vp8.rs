//! From RTP packets to VP8 frames. RFC 7741, section 4.

use bytes::BytesMut;

/// Puts frames together from packets that come in order.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    frame: BytesMut,
    timestamp: u64,
    /// The frame being put together has its beginning.
    begun: bool,
    /// Frames lean on those before them: after a loss the next key frame is the first to make sense.
    needs_key_frame: bool,
    started: bool,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Assembly {
    /// The frame goes on.
    Pending,
    /// A whole frame, due at this tick.
    Frame { at: u64, data: bytes::Bytes, dimensions: Option<(u16, u16)> },
    /// Nothing can be made of this until a key frame comes.
    NeedsKeyFrame,
}

impl Assembler {
    /// Takes the next packet; `lost` says that some before it never came.
    pub(crate) fn handle_packet(&mut self, at: u64, marker: bool, lost: bool, payload: &[u8]) -> Assembly {
        if lost {
            self.begun = false;
            self.needs_key_frame = true;
        }
        let Some((begins, data)) = strip_descriptor(payload) else { return Assembly::Pending };
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
        self.frame.extend_from_slice(data);
        if self.frame.len() > LARGEST_FRAME {
            self.begun = false;
            return self.missing();
        }
        if !marker {
            return Assembly::Pending;
        }
        self.begun = false;
        let dimensions = dimensions(&self.frame);
        if (self.needs_key_frame || !self.started) && dimensions.is_none() {
            return Assembly::NeedsKeyFrame;
        }
        self.needs_key_frame = false;
        self.started = true;
        Assembly::Frame { at, data: self.frame.split().freeze(), dimensions }
    }

    fn missing(&mut self) -> Assembly {
        self.needs_key_frame = true;
        Assembly::NeedsKeyFrame
    }
}

/// Whether the packet begins a frame, and what is behind the payload descriptor.
fn strip_descriptor(payload: &[u8]) -> Option<(bool, &[u8])> {
    let mut cursor = super::Cursor::new(payload);
    let mut byte = || cursor.array::<1>("").ok().map(|[byte]| byte);
    let first = byte()?;
    if first & 0x80 != 0 {
        let extensions = byte()?;
        if extensions & 0x80 != 0 && byte()? & 0x80 != 0 {
            byte()?; // a picture id of 15 bits
        }
        if extensions & 0x40 != 0 {
            byte()?; // TL0PICIDX
        }
        if extensions & 0x30 != 0 {
            byte()?; // TID, Y, KEYIDX
        }
    }
    let begins = first & 0x10 != 0 && first & 0x07 == 0;
    let data = payload.get(cursor.offset..).filter(|data| !data.is_empty())?;
    Some((begins, data))
}

/// Width and height, which key frames have and no others. RFC 6386, section 9.1.
pub(super) fn dimensions(frame: &[u8]) -> Option<(u16, u16)> {
    let header: &[u8; 10] = frame.first_chunk()?;
    let [tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1] = *header else { return None };
    (tag & 1 == 0).then_some((u16::from_le_bytes([w0, w1]) & 0x3fff, u16::from_le_bytes([h0, h1]) & 0x3fff))
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
        let mut assembler = Assembler::default();
        let (one, two) = KEY.split_at(11);
        assert_eq!(assembler.handle_packet(0, false, false, &packet(BEGINS, one)), Assembly::Pending);
        let done = assembler.handle_packet(0, true, false, &packet(0, two));
        let data = bytes::Bytes::from_static(KEY);
        assert_eq!(done, Assembly::Frame { at: 0, data, dimensions: Some((320, 180)) });
    }

    #[test]
    fn nothing_is_shown_before_the_first_key_frame() {
        let mut assembler = Assembler::default();
        assert_eq!(assembler.handle_packet(0, true, false, &delta()), Assembly::NeedsKeyFrame);
    }

    #[test]
    fn after_a_loss_frames_are_left_out_until_a_key_frame() {
        let mut assembler = Assembler::default();
        let is_frame = |assembly| matches!(assembly, Assembly::Frame { .. });
        assert!(is_frame(assembler.handle_packet(0, true, false, &packet(BEGINS, KEY))));
        assert!(is_frame(assembler.handle_packet(1, true, false, &delta())));
        assert_eq!(assembler.handle_packet(3, true, true, &delta()), Assembly::NeedsKeyFrame);
        assert_eq!(assembler.handle_packet(4, true, false, &delta()), Assembly::NeedsKeyFrame);
        assert!(is_frame(assembler.handle_packet(5, true, false, &packet(BEGINS, KEY))));
        assert!(is_frame(assembler.handle_packet(6, true, false, &delta())));
    }

    #[test]
    fn every_extension_of_the_descriptor_is_skipped() {
        assert_eq!(strip_descriptor(&[0x90, 0xf0, 0x81, 2, 3, 4, 9]), Some((true, &[9][..])));
        assert_eq!(strip_descriptor(&[0x90, 0x80, 0x01, 9]), Some((true, &[9][..])));
        assert_eq!(strip_descriptor(&[0x11, 9]), Some((false, &[9][..])));
        assert_eq!(strip_descriptor(&[0x90, 0x80]), None);
    }

    proptest! {
        #[test]
        fn no_packets_panic(packets in prop::collection::vec((0u64..3, any::<bool>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..12)), 0..30)) {
            let mut assembler = Assembler::default();
            for (at, marker, lost, payload) in packets {
                let _ = assembler.handle_packet(at, marker, lost, &payload);
            }
        }
    }
}
