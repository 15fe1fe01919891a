//! Which streams the other side's description says it sends.
//!
//! The engine does not tell that a track was removed, so that its file would stay open until the end of the call.

use rtc::rtp_transceiver::RTCRtpTransceiverDirection;

use crate::media::Codec;
use crate::report::MediaKind;

/// See the module. Without a description it is not known, and everything counts as sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Described {
    sections: Option<Vec<Section>>,
    sdp: String,
}

/// A section of media that the other side sends in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    kind: MediaKind,
    /// The synchronization sources it names; it need not name any.
    sources: Vec<u32>,
}

impl Described {
    pub(super) fn read(sdp: &str) -> Self {
        let mut sections: Vec<(Option<Section>, bool)> = Vec::new();
        let mut sends_by_default = true;
        for line in sdp.lines().map(str::trim_end) {
            if let Some(media) = line.strip_prefix("m=") {
                sections.push((section(media), sends_by_default));
                continue;
            }
            let sends = match line {
                "a=sendrecv" | "a=sendonly" => Some(true),
                "a=recvonly" | "a=inactive" => Some(false),
                _ => None,
            };
            match (sections.last_mut(), sends) {
                (None, Some(sends)) => sends_by_default = sends,
                (Some((_, of_section)), Some(sends)) => *of_section = sends,
                (Some((Some(section), _)), None) => section.sources.extend(source(line)),
                (None | Some((None, _)), None) => {}
            }
        }
        let sent = sections.into_iter().filter(|(_, sends)| *sends).filter_map(|(section, _)| section);
        Self { sections: Some(sent.collect()), sdp: sdp.to_owned() }
    }

    /// Which ways this section goes, as the other side sees it.
    pub(super) fn direction_in(&self, mid: &str) -> Option<RTCRtpTransceiverDirection> {
        direction_in(&self.sdp, mid)
    }

    /// What the other side means by a payload type.
    pub(super) fn codec(&self, payload_type: u8) -> Option<Codec> {
        let maps = self.sdp.lines().filter_map(|line| line.strip_prefix("a=rtpmap:")?.split_once(' '));
        let name =
            maps.into_iter().find(|(number, _)| number.parse() == Ok(payload_type))?.1.split('/').next()?;
        [MediaKind::Video, MediaKind::Audio]
            .into_iter()
            .find_map(|kind| Codec::of_mime_type(&format!("{}/{name}", kind.text())))
    }

    /// Whether this stream is among what is sent, as far as the description goes.
    pub(super) fn has(&self, kind: MediaKind, source: u32) -> bool {
        let Some(sections) = &self.sections else { return true };
        let mut of_kind = sections.iter().filter(|section| section.kind == kind);
        of_kind.any(|section| section.sources.is_empty() || section.sources.contains(&source))
    }
}

/// Which ways a description has this section go, as its side sees it; nothing if it has no such section.
pub(super) fn direction_in(sdp: &str, mid: &str) -> Option<RTCRtpTransceiverDirection> {
    let mut direction = RTCRtpTransceiverDirection::Sendrecv;
    let mut found = false;
    for line in sdp.lines().map(str::trim_end) {
        if line.starts_with("m=") {
            if found {
                break;
            }
            direction = RTCRtpTransceiverDirection::Sendrecv;
        }
        match line {
            "a=sendrecv" => direction = RTCRtpTransceiverDirection::Sendrecv,
            "a=sendonly" => direction = RTCRtpTransceiverDirection::Sendonly,
            "a=recvonly" => direction = RTCRtpTransceiverDirection::Recvonly,
            "a=inactive" => direction = RTCRtpTransceiverDirection::Inactive,
            _ => found |= line.strip_prefix("a=mid:") == Some(mid),
        }
    }
    found.then_some(direction)
}

/// The same offer for the engine, as if everything were possible. It would take leave of a section for good that is
/// inactive, and have nowhere to receive in one that began as `recvonly`; which ways media goes is decided by us.
pub(super) fn without_directions(sdp: &str) -> String {
    let line =
        |line| if matches!(line, "a=inactive" | "a=recvonly" | "a=sendonly") { "a=sendrecv" } else { line };
    sdp.lines().map(line).flat_map(|line| [line, "\r\n"]).collect()
}

/// Whether we are to wait for the other side's DTLS handshake, where this description of it decides that.
pub(super) fn leaves_us_passive(sdp: &str) -> Option<bool> {
    sdp.lines().find_map(|line| match line.trim_end() {
        "a=setup:active" => Some(true),
        "a=setup:passive" => Some(false),
        _ => None,
    })
}

/// The same answer as one who waits for that handshake. The engine answers as if it began another, whoever began the
/// one that holds; browsers refuse an answer that swaps the roles (RFC 8842, section 5.5).
pub(super) fn waiting_for_handshake(sdp: &str) -> String {
    sdp.replace("a=setup:active", "a=setup:passive")
}

/// A section whose port is 0 was refused or has ended.
fn section(media: &str) -> Option<Section> {
    let mut words = media.split(' ');
    let kind = match words.next()? {
        "video" => MediaKind::Video,
        "audio" => MediaKind::Audio,
        _ => return None,
    };
    (words.next()? != "0").then(|| Section { kind, sources: Vec::new() })
}

fn source(line: &str) -> Option<u32> {
    line.strip_prefix("a=ssrc:")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMERA: &str =
        "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=sendrecv\r\na=ssrc:7 cname:x\r\na=ssrc:7 msid:a b\r\n";

    #[test]
    fn a_stream_is_sent_while_a_section_of_its_kind_names_it() {
        let described =
            Described::read(&format!("v=0\r\n{CAMERA}m=video 9 X 96\r\na=sendonly\r\na=ssrc:8 c\r\n"));
        let sent = [7, 8, 9].map(|source| described.has(MediaKind::Video, source));
        assert_eq!(sent, [true, true, false]);
        assert!(!described.has(MediaKind::Audio, 7));
    }

    #[test]
    fn a_section_that_names_none_may_have_any() {
        let described = Described::read("v=0\r\nm=audio 9 X 111\r\na=sendrecv\r\n");
        assert!(described.has(MediaKind::Audio, 1));
    }

    #[test]
    fn a_section_is_found_by_its_name() {
        let sdp =
            "v=0\r\nm=audio 9 X 1\r\na=mid:0\r\na=recvonly\r\nm=video 9 X 2\r\na=sendrecv\r\na=mid:1\r\n";
        let directions =
            [RTCRtpTransceiverDirection::Recvonly, RTCRtpTransceiverDirection::Sendrecv].map(Some);
        assert_eq!(["0", "1"].map(|mid| direction_in(sdp, mid)), directions);
        assert_eq!(direction_in(sdp, "2"), None);
    }

    #[test]
    fn the_engine_learns_of_no_direction_and_we_do() {
        let sdp = "v=0\r\nm=audio 9 X 1\r\na=mid:0\r\na=inactive\r\n";
        assert_eq!(without_directions(sdp), sdp.replace("inactive", "sendrecv"));
        let described = Described::read(sdp);
        assert_eq!(described.direction_in("0"), Some(RTCRtpTransceiverDirection::Inactive));
    }

    #[test]
    fn what_is_removed_refused_or_inactive_is_not_sent() {
        for sdp in [
            CAMERA.replace("sendrecv", "recvonly"),
            CAMERA.replace("sendrecv", "inactive"),
            CAMERA.replace("m=video 9", "m=video 0"),
            format!("v=0\r\na=recvonly\r\n{}", CAMERA.replace("a=sendrecv\r\n", "")),
        ] {
            assert!(!Described::read(&sdp).has(MediaKind::Video, 7), "{sdp}");
        }
        assert!(Described::read(&CAMERA.replace("a=sendrecv\r\n", "")).has(MediaKind::Video, 7));
        assert!(Described::default().has(MediaKind::Video, 7));
    }
}
