//! The two things the core must read in a session description. RFC 8866 and RFC 8839.

/// The `sess-id` of the origin line, which stays the same as long as the peer connection behind it.
pub(super) fn origin(sdp: &str) -> Option<&str> {
    sdp.lines().find_map(|line| line.strip_prefix("o="))?.split(' ').nth(1)
}

/// The first `a=ice-ufrag`: the generation that candidates belong to.
pub(crate) fn ice_ufrag(sdp: &str) -> Option<&str> {
    sdp.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDP: &str = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n\
                       a=ice-ufrag:abCD\r\na=ice-pwd:secret\r\n";

    #[test]
    fn origin_and_ufrag_are_found() {
        assert_eq!((origin(SDP), ice_ufrag(SDP)), (Some("4611731400430051336"), Some("abCD")));
    }

    #[test]
    fn what_is_no_sdp_has_neither() {
        assert_eq!((origin("o=\r\nhello"), ice_ufrag("")), (None, None));
    }
}
