//! RFC 3489 Binding, for devices that were never taught anything newer. Off unless the operator asks for it, since
//! without the magic cookie more of the world's random bytes look like a request.

use std::net::SocketAddr;

use super::address::EncodedAddress;
use super::{HEADER_BYTES, MAGIC_COOKIE, u16_at, u32_at};

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_RESPONSE: u16 = 0x0101;
const MAPPED_ADDRESS: u16 = 0x0001;

/// Answers a bare RFC 3489 Binding request into `buffer`; false if the datagram is none.
///
/// One with attributes is not answered: they ask for an answer from or to elsewhere, which this server never gives.
pub fn answer_binding(datagram: &[u8], client: SocketAddr, buffer: &mut Vec<u8>) -> bool {
    let is_request = datagram.len() == HEADER_BYTES
        && u16_at(datagram, 0) == Some(BINDING_REQUEST)
        && u16_at(datagram, 2) == Some(0)
        && u32_at(datagram, 4) != Some(MAGIC_COOKIE);
    let Some(transaction_id) = datagram.get(4..HEADER_BYTES).filter(|_| is_request) else { return false };
    let address = EncodedAddress::plain(client);
    // An encoded address has 8 or 20 bytes.
    let value_bytes = u16::try_from(address.as_bytes().len()).unwrap_or_default();
    buffer.clear();
    buffer.extend_from_slice(&BINDING_RESPONSE.to_be_bytes());
    buffer.extend_from_slice(&(4 + value_bytes).to_be_bytes());
    buffer.extend_from_slice(transaction_id);
    buffer.extend_from_slice(&MAPPED_ADDRESS.to_be_bytes());
    buffer.extend_from_slice(&value_bytes.to_be_bytes());
    buffer.extend_from_slice(address.as_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_the_cookie_is_answered_with_a_plain_mapped_address() {
        let mut request = vec![0, 1, 0, 0];
        request.extend_from_slice(&[9; 16]);
        let mut answer = Vec::new();
        assert!(answer_binding(&request, "192.0.2.1:32853".parse().unwrap(), &mut answer));
        let mut expected = vec![1, 1, 0, 12];
        expected.extend_from_slice(&[9; 16]);
        expected.extend_from_slice(&[0, 1, 0, 8, 0, 1, 0x80, 0x55, 192, 0, 2, 1]);
        assert_eq!(answer, expected);
    }

    #[test]
    fn anything_else_is_not() {
        let client = "192.0.2.1:1".parse().unwrap();
        let mut modern = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        modern.extend_from_slice(&[9; 12]);
        for bytes in
            [&modern[..], &[0, 1, 0, 0], &[1, 1, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]]
        {
            assert!(!answer_binding(bytes, client, &mut Vec::new()));
        }
    }
}
