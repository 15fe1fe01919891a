//! Where a frame ends on a stream: STUN says its length, ChannelData says its length and is padded to four.
//! RFC 8489, section 6.2.2; RFC 8656, section 12.5.

use super::{HEADER_BYTES, Header, channel_data, padded, u16_at};

/// The longest frame either kind can announce; a reader never needs a larger buffer.
pub const MAX_FRAME_BYTES: usize = HEADER_BYTES + padded(u16::MAX as usize);

/// The stream is out of step, or never was in it: there is no way to find the next frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream carries neither STUN nor ChannelData")]
pub struct OutOfStep;

/// The frame that begins a stream's unread bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed<'a> {
    /// One whole frame, its padding included.
    Frame(&'a [u8]),
    /// Not all of it is here yet.
    Partial,
}

/// Finds the first frame in `unread`.
pub fn first_frame(unread: &[u8]) -> Result<Framed<'_>, OutOfStep> {
    let Some(first) = unread.first() else { return Ok(Framed::Partial) };
    let length = match first >> 6 {
        0b00 => stun_length(unread)?,
        0b01 => u16_at(unread, 2).map(|length| channel_data::HEADER_BYTES + padded(usize::from(length))),
        _ => return Err(OutOfStep),
    };
    Ok(length.and_then(|length| unread.get(..length)).map_or(Framed::Partial, Framed::Frame))
}

/// Checks the whole header before it believes the length, so that a stream of something else ends at once.
fn stun_length(unread: &[u8]) -> Result<Option<usize>, OutOfStep> {
    if unread.len() < HEADER_BYTES {
        return Ok(None);
    }
    let header = Header::parse(unread).ok_or(OutOfStep)?;
    Ok(Some(HEADER_BYTES + usize::from(header.length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stun::{Class, MessageWriter, Method, TransactionId};

    fn binding() -> Vec<u8> {
        let mut bytes = Vec::new();
        MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, TransactionId([3; 12]))
            .fingerprint()
            .finish()
            .unwrap();
        bytes
    }

    #[test]
    fn a_frame_is_found_once_its_last_byte_has_come() {
        for frame in [binding(), vec![0x40, 0, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0], vec![0x40, 0, 0, 0]] {
            let mut stream = frame.clone();
            stream.push(0);
            for end in 0..frame.len() {
                assert_eq!(first_frame(&stream[..end]), Ok(Framed::Partial), "{end} of {frame:?}");
            }
            assert_eq!(first_frame(&stream), Ok(Framed::Frame(&frame[..])));
        }
    }

    #[test]
    fn http_and_tls_are_out_of_step() {
        assert_eq!(first_frame(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefghijkl"), Err(OutOfStep));
        assert_eq!(first_frame(b"\x80"), Err(OutOfStep));
        assert_eq!(first_frame(b"\x00\x01\x00\x00 this is not the cookie"), Err(OutOfStep));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_frame_is_longer_than_the_bound(bytes: Vec<u8>) {
            if let Ok(Framed::Frame(frame)) = first_frame(&bytes) {
                prop_assert!(!frame.is_empty() && frame.len() <= MAX_FRAME_BYTES && frame.len() % 4 == 0);
            }
        }
    }
}
