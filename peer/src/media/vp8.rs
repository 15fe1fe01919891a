//! VP8 in RTP (RFC 7741), and what the first bytes of its frames tell.

use super::Cursor;
use super::assembler::Piece;

/// What is behind the payload descriptor, and whether it begins a frame. RFC 7741, section 4.2.
pub(super) fn piece(payload: &[u8]) -> Option<Piece<'_>> {
    let mut cursor = Cursor::new(payload);
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
    Some(Piece::Part { begins, data })
}

/// Width and height, which key frames have and no others. RFC 6386, section 9.1.
pub(super) fn dimensions(frame: &[u8]) -> Option<(u16, u16)> {
    let header: &[u8; 10] = frame.first_chunk()?;
    let [tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1] = *header else { return None };
    (tag & 1 == 0).then_some((u16::from_le_bytes([w0, w1]) & 0x3fff, u16::from_le_bytes([h0, h1]) & 0x3fff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_extension_of_the_descriptor_is_skipped() {
        let part = |begins| Some(Piece::Part { begins, data: &[9] });
        assert_eq!(piece(&[0x90, 0xf0, 0x81, 2, 3, 4, 9]), part(true));
        assert_eq!(piece(&[0x90, 0x80, 0x01, 9]), part(true));
        assert_eq!(piece(&[0x11, 9]), part(false));
        assert_eq!(piece(&[0x90, 0x80]), None);
    }
}
