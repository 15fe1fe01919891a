//! The bytes of a connection, in pieces and at once: whoever speaks first, and frames after that.

use farcall_relay::proxy_protocol::{self, Beginning};
use farcall_relay::stun::framing::{Framed, MAX_FRAME_BYTES, first_frame};

/// The first byte says how long the pieces are. Panics if it matters how a connection is cut into them.
pub fn run(bytes: &[u8]) {
    let Some((length, connection)) = bytes.split_first() else { return };
    let length = usize::from(*length).max(1);
    let behind = without_header(connection, length);
    assert_eq!(frames(behind, length), frames(behind, behind.len().max(1)), "frames depend on the pieces");
}

/// Reads a PROXY header as it arrives. What was said when it was whole is what would be said at once.
fn without_header(connection: &[u8], length: usize) -> &[u8] {
    let at_once = proxy_protocol::parse(connection);
    let mut end = 0;
    while end < connection.len() {
        end = (end + length).min(connection.len());
        match proxy_protocol::parse(&connection[..end]) {
            Ok(Beginning::Partial) => {}
            result @ Ok(Beginning::Whole { length, .. }) => {
                assert!(length <= proxy_protocol::MAX_BYTES && result == at_once);
                return &connection[length..];
            }
            Err(_) => {
                assert!(at_once.is_err(), "refused in pieces, good at once");
                return connection;
            }
        }
    }
    connection
}

/// The frames up to the end or to where there are no more, and whether they ended in disorder.
fn frames(connection: &[u8], length: usize) -> (Vec<&[u8]>, bool) {
    let mut frames = Vec::new();
    let (mut begin, mut end) = (0, 0);
    while end < connection.len() {
        end = (end + length).min(connection.len());
        loop {
            match first_frame(&connection[begin..end]) {
                Ok(Framed::Frame(frame)) => {
                    assert!(!frame.is_empty() && frame.len() <= MAX_FRAME_BYTES);
                    frames.push(frame);
                    begin += frame.len();
                }
                Ok(Framed::Partial) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}
