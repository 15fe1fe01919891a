//! Tones on a connection: whether both sides agreed on them, and what this side wants to dial.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use tokio::sync::{Mutex, mpsc};

use super::Happening;
use crate::media::Tones;
use crate::media::dtmf::Dialer;
use crate::report::Event;
use crate::session::LinkId;

/// The payload type of tones, as the other side's description has it.
#[derive(Debug)]
pub(super) struct Agreed(AtomicU8);

impl Default for Agreed {
    fn default() -> Self {
        Self(AtomicU8::new(NONE))
    }
}

impl Agreed {
    /// Reads a description of the other side.
    pub(super) fn read(&self, sdp: &str) {
        self.0.store(payload_type(sdp).unwrap_or(NONE), Relaxed);
    }

    pub(super) fn payload_type(&self) -> Option<u8> {
        Some(self.0.load(Relaxed)).filter(|payload_type| *payload_type != NONE)
    }
}

/// Tones that share the clock of Opus; those of 8 kHz go with the codecs of telephones.
fn payload_type(sdp: &str) -> Option<u8> {
    let formats = sdp.lines().filter_map(|line| line.strip_prefix("a=rtpmap:"));
    let tones = formats.filter_map(|format| format.trim().split_once(' ')).find(|(_, name)| *name == FORMAT);
    tones?.0.parse().ok().filter(|payload_type| *payload_type < 128)
}

/// What this side wants to dial. It waits here until sound is sent.
pub(crate) type Wanted = Arc<Mutex<mpsc::Receiver<Tones>>>;

/// Presses the wanted keys on one connection, if the other side takes them.
pub(super) struct Keypad {
    pub(super) wanted: Wanted,
    pub(super) agreed: Arc<Agreed>,
    pub(super) link: LinkId,
    pub(super) happenings: mpsc::UnboundedSender<(LinkId, Happening)>,
}

impl Keypad {
    pub(super) fn tell(&self, event: Event) {
        // Whoever listened has closed this connection.
        let _ = self.happenings.send((self.link, Happening::Tell(event)));
    }

    /// Hands what is wanted by now to the dialer: returns the payload type to send it with.
    pub(super) fn look(&self, dialer: &mut Dialer) -> Option<u8> {
        let agreed = self.agreed.payload_type();
        // Only another connection, which is about to end, could hold it.
        let Ok(mut wanted) = self.wanted.try_lock() else { return agreed };
        while let Ok(tones) = wanted.try_recv() {
            if agreed.is_some() {
                dialer.press(tones);
            } else {
                let message = "the other side takes no tones (audio/telephone-event)".to_owned();
                self.tell(Event::Warning { message });
            }
        }
        agreed
    }
}

/// No payload type has more than seven bits.
const NONE: u8 = u8::MAX;
const FORMAT: &str = "telephone-event/48000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_type_is_that_of_the_clock_of_opus() {
        let chromium = "m=audio 9 UDP/TLS/RTP/SAVPF 111 110 126\r\na=rtpmap:111 opus/48000/2\r\n\
                        a=rtpmap:126 telephone-event/8000\r\na=rtpmap:110 telephone-event/48000\r\n";
        assert_eq!(payload_type(chromium), Some(110));
        assert_eq!(payload_type("a=rtpmap:126 telephone-event/8000\r\n"), None);
        assert_eq!(payload_type("a=rtpmap:999 telephone-event/48000"), None);
    }

    #[test]
    fn a_description_without_tones_takes_them_back() {
        let agreed = Agreed::default();
        agreed.read("a=rtpmap:110 telephone-event/48000\r\n");
        assert_eq!(agreed.payload_type(), Some(110));
        agreed.read("v=0\r\n");
        assert_eq!(agreed.payload_type(), None);
    }
}
