//! The keys of both ends, as DTLS really used them: what safety words are made of, and assertions compared with.

use sha2::{Digest, Sha256};
use webrtc::peer_connection::PeerConnection;

/// The SHA-256 fingerprints of the own certificate and of the one that the other side showed.
pub(super) async fn fingerprints(engine: &dyn PeerConnection) -> Option<[Vec<u8>; 2]> {
    let own = of_description(&engine.local_description().await?.sdp)?;
    Some([own, of_other(engine).await?])
}

/// The SHA-256 fingerprint of the certificate that the other side showed.
pub(super) async fn of_other(engine: &dyn PeerConnection) -> Option<Vec<u8>> {
    let shown = engine.sctp().await?.transport().get_remote_certificates().await.ok()?;
    Some(Sha256::digest(shown.first()?).to_vec())
}

/// RFC 8122, section 5.
fn of_description(sdp: &str) -> Option<Vec<u8>> {
    let line = sdp.lines().find_map(|line| line.strip_prefix("a=fingerprint:"))?;
    let (hash, hex) = line.trim().split_once(' ')?;
    if !hash.eq_ignore_ascii_case("sha-256") {
        return None;
    }
    let bytes: Option<Vec<u8>> = hex.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.filter(|bytes| bytes.len() == 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_and_anything_else_is_none() {
        let hex = vec!["0A"; 32].join(":");
        assert_eq!(of_description(&format!("v=0\r\na=fingerprint:sha-256 {hex}\r\n")), Some(vec![10; 32]));
        for bad in ["", "a=fingerprint:sha-1 0A:0B", "a=fingerprint:sha-256 0A:0B", "a=fingerprint:sha-256"] {
            assert_eq!(of_description(bad), None, "{bad}");
        }
    }
}
