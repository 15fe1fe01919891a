//! VP9 in RTP (RFC 9628), and what the first bits of its frames tell.

use super::Cursor;
use super::assembler::Piece;

/// What is behind the payload descriptor, and whether it begins a picture. Section 4.2.
pub(super) fn piece(payload: &[u8]) -> Option<Piece<'_>> {
    let mut cursor = Cursor::new(payload);
    let mut byte = || cursor.array::<1>("").ok().map(|[byte]| byte);
    let first = byte()?;
    let has = |bit: u8| first & bit != 0;
    let (picture_id, predicted, layers, flexible) = (has(0x80), has(0x40), has(0x20), has(0x10));
    let (begins, structure) = (has(0x08), has(0x02));
    if picture_id && byte()? & 0x80 != 0 {
        byte()?;
    }
    let mut spatial_layer = 0;
    if layers {
        spatial_layer = byte()? >> 1 & 7;
        if !flexible {
            byte()?; // TL0PICIDX
        }
    }
    if flexible && predicted {
        for _ in 0..MOST_REFERENCES {
            if byte()? & 1 == 0 {
                break;
            }
        }
    }
    if structure {
        let head = byte()?;
        let (spatial_layers, sizes, group) = (usize::from(head >> 5) + 1, head & 0x10 != 0, head & 0x08 != 0);
        if sizes {
            for _ in 0..spatial_layers * 4 {
                byte()?;
            }
        }
        if group {
            for _ in 0..byte()? {
                for _ in 0..byte()? >> 2 & 3 {
                    byte()?;
                }
            }
        }
    }
    let data = payload.get(cursor.offset..).filter(|data| !data.is_empty())?;
    Some(Piece::Part { begins: begins && spatial_layer == 0, data })
}

/// Width and height, which key frames have. VP9 bitstream specification, section 6.2.
pub(super) fn dimensions(frame: &[u8]) -> Option<(u16, u16)> {
    let mut bits = Bits { bytes: frame, place: 0 };
    if bits.take(2)? != FRAME_MARKER {
        return None;
    }
    let profile = bits.take(1)? | bits.take(1)? << 1;
    if profile == 3 {
        bits.take(1)?;
    }
    let (shows_existing, is_not_key) = (bits.take(1)? == 1, bits.take(1)? == 1);
    if shows_existing || is_not_key {
        return None;
    }
    let _shown_and_resilient = bits.take(2)?;
    if bits.take(24)? != SYNC_CODE {
        return None;
    }
    if profile >= 2 {
        bits.take(1)?; // 10 or 12 bits
    }
    let has_subsampling = profile == 1 || profile == 3;
    if bits.take(3)? != COLOR_SPACE_RGB {
        bits.take(1)?; // range
        if has_subsampling {
            bits.take(3)?;
        }
    } else if has_subsampling {
        bits.take(1)?;
    }
    let mut side = || u16::try_from(bits.take(16)?.checked_add(1)?).ok();
    Some((side()?, side()?))
}

struct Bits<'a> {
    bytes: &'a [u8],
    place: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = *self.bytes.get(self.place / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.place % 8) & 1);
            self.place += 1;
        }
        Some(value)
    }
}

const FRAME_MARKER: u32 = 2;
const SYNC_CODE: u32 = 0x49_83_42;
const COLOR_SPACE_RGB: u32 = 7;
const MOST_REFERENCES: usize = 3;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Profile 0, key frame, shown; BT.601, limited range; 320 by 180.
    pub(super) const KEY: [u8; 8] = [0x82, 0x49, 0x83, 0x42, 0x20, 0x13, 0xf0, 0x0b];

    #[test]
    fn key_frames_tell_their_dimensions() {
        let key = [&KEY[..], &[0x30, 0]].concat();
        assert_eq!(dimensions(&key), Some((320, 180)));
        // The same as a frame that leans on others; cut off; not a frame.
        assert_eq!(dimensions(&[&[0x86][..], &key[1..]].concat()), None);
        assert_eq!(dimensions(&KEY[..7]), None);
        assert_eq!(dimensions(&[0; 12]), None);
    }

    #[test]
    fn every_part_of_the_descriptor_is_skipped() {
        let begins = |payload: &'static [u8]| match piece(payload) {
            Some(Piece::Part { begins, data: &[9] }) => begins,
            other => panic!("{other:?}"),
        };
        assert!(begins(&[0x08, 9]));
        // A long picture id, layers without flexible mode.
        assert!(begins(&[0xa8, 0x81, 2, 0x00, 7, 9]));
        assert!(!begins(&[0xa8, 0x81, 2, 0x02, 7, 9]), "the second spatial layer begins no picture");
        // Flexible mode with two references.
        assert!(begins(&[0x58, 3, 2, 9]));
        // Two layers with their sizes, a group of one picture with two references.
        assert!(begins(&[0x0a, 0x38, 1, 1, 1, 1, 2, 2, 2, 2, 1, 0x08, 1, 2, 9]));
        assert!(piece(&[0x88]).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = piece(&bytes);
            let _ = dimensions(&bytes);
        }
    }
}
