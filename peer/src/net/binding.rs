//! STUN Binding, as a client that wants to know how it is seen. RFC 8489, section 5; RFC 5780, section 7.

use std::net::{IpAddr, SocketAddr};

/// CHANGE-REQUEST: the answer is to come from where the request went.
pub(crate) const NOTHING: u32 = 0;
pub(crate) const OTHER_PORT: u32 = 2;
pub(crate) const OTHER_ADDRESS_AND_PORT: u32 = 6;

/// What a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// As the server sees us.
    pub(crate) mapped: SocketAddr,
    /// Where else the server is.
    pub(crate) other: Option<SocketAddr>,
}

pub(crate) fn request(transaction: [u8; 12], change: u32) -> Vec<u8> {
    let mut message = REQUEST.to_be_bytes().to_vec();
    message.extend_from_slice(&(if change == NOTHING { 0u16 } else { 8 }).to_be_bytes());
    message.extend_from_slice(&COOKIE);
    message.extend_from_slice(&transaction);
    if change != NOTHING {
        message.extend_from_slice(&CHANGE_REQUEST.to_be_bytes());
        message.extend_from_slice(&4u16.to_be_bytes());
        message.extend_from_slice(&change.to_be_bytes());
    }
    message
}

/// Reads the answer to that request; nothing if it is anything else.
pub(crate) fn answer(message: &[u8], transaction: [u8; 12]) -> Option<Answer> {
    if be16(message, 0)? != SUCCESS || message.get(4..8)? != COOKIE || message.get(8..20)? != transaction {
        return None;
    }
    let (mut mapped, mut other) = (None, None);
    let mut rest = message.get(20..)?;
    while let (Some(kind), Some(length)) = (be16(rest, 0), be16(rest, 2).map(usize::from)) {
        let value = rest.get(4..4 + length)?;
        match kind {
            XOR_MAPPED_ADDRESS => {
                let mut mask = COOKIE.to_vec();
                mask.extend_from_slice(&transaction);
                mapped = address(value, &mask);
            }
            OTHER_ADDRESS => other = address(value, &[0; 16]),
            _ => {}
        }
        rest = rest.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Answer { mapped: mapped?, other })
}

fn address(value: &[u8], mask: &[u8]) -> Option<SocketAddr> {
    let unmasked = |bytes: &[u8]| bytes.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect::<Vec<u8>>();
    let port = u16::from_be_bytes(unmasked(value.get(2..4)?).try_into().ok()?);
    let ip: IpAddr = match *value.get(1)? {
        1 => <[u8; 4]>::try_from(unmasked(value.get(4..8)?)).ok()?.into(),
        2 => <[u8; 16]>::try_from(unmasked(value.get(4..20)?)).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
const CHANGE_REQUEST: u16 = 0x0003;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const OTHER_ADDRESS: u16 = 0x802c;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 5769, sections 2.2 and 2.3.
    const TRANSACTION: [u8; 12] = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    fn success(attributes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(attributes.len()).unwrap();
        let mut message = SUCCESS.to_be_bytes().to_vec();
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&COOKIE);
        message.extend_from_slice(&TRANSACTION);
        message.extend_from_slice(attributes);
        message
    }

    #[test]
    fn the_samples_of_rfc_5769_are_read() {
        let v4 = success(&[0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        assert_eq!(answer(&v4, TRANSACTION).unwrap().mapped.to_string(), "192.0.2.1:32853");
        let mut v6 = vec![0, 0x20, 0, 0x14, 0, 2, 0xa1, 0x47];
        v6.extend([0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79]);
        v6.extend([0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9]);
        let mapped = answer(&success(&v6), TRANSACTION).unwrap().mapped;
        assert_eq!(mapped.to_string(), "[2001:db8:1234:5678:11:2233:4455:6677]:32853");
        assert_eq!(answer(&v4, [0; 12]), None, "the answer to something else");
    }

    #[test]
    fn the_other_address_is_read_and_a_change_is_asked_for() {
        let both = success(&[
            0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43, //
            0x80, 0x2c, 0, 8, 0, 1, 0x0d, 0x97, 198, 51, 100, 2,
        ]);
        assert_eq!(answer(&both, TRANSACTION).unwrap().other, Some("198.51.100.2:3479".parse().unwrap()));
        assert_eq!(request(TRANSACTION, NOTHING).len(), 20);
        assert_eq!(request(TRANSACTION, OTHER_PORT)[20..], [0, 3, 0, 4, 0, 0, 0, 2]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = answer(&bytes, TRANSACTION);
            let _ = answer(&success(&bytes), TRANSACTION);
        }
    }
}
