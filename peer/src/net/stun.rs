//! As much of STUN and TURN framing as is needed to see what passes between us and a TURN server.
//! RFC 8489, section 5; RFC 8656, sections 11 and 12.

use std::borrow::Cow;

/// What a datagram is, in the eyes of somebody who watches a TURN client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// Application payload of this length: ChannelData, a Send indication or a Data indication.
    Payload(usize),
    /// A request for an allocation, with credentials or without.
    AllocateRequest { transaction: [u8; 12], has_credentials: bool },
    /// An allocation was made.
    AllocateSuccess,
    /// An allocation was refused.
    AllocateError { transaction: [u8; 12], code: u16, reason: &'a [u8] },
    /// Nothing of these.
    Other,
}

/// Looks at a datagram; whatever is not well formed is `Other`.
pub(super) fn look(datagram: &[u8]) -> Kind<'_> {
    match datagram.first() {
        Some(0x40..=0x4f) => channel_data(datagram),
        Some(0x00..=0x3f) => message(datagram).unwrap_or(Kind::Other),
        Some(_) | None => Kind::Other,
    }
}

/// What one end says to the other: what is in ChannelData or an indication, and else the datagram itself.
pub(super) fn between_the_ends(datagram: &[u8]) -> &[u8] {
    let framed = match datagram.first() {
        Some(0x40..=0x4f) => be16(datagram, 2).and_then(|length| datagram.get(4..4 + usize::from(length))),
        Some(0x00) if matches!(be16(datagram, 0), Some(SEND_INDICATION | DATA_INDICATION)) => {
            attribute(datagram, DATA)
        }
        Some(_) | None => None,
    };
    framed.unwrap_or(datagram)
}

/// A message of Binding, RFC 8489 section 3, by which two ends check a path and keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Request([u8; 12]),
    Success([u8; 12]),
}

/// Looks at what one end says to the other.
pub(super) fn check(message: &[u8]) -> Option<Check> {
    let kind = be16(message, 0).filter(|kind| [BINDING_REQUEST, BINDING_SUCCESS].contains(kind))?;
    let transaction =
        message.get(8..20).filter(|_| message.get(4..8) == Some(&MAGIC_COOKIE))?.try_into().ok()?;
    Some(if kind == BINDING_REQUEST { Check::Request(transaction) } else { Check::Success(transaction) })
}

/// How what one end says to the other travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As it is.
    Plain,
    /// In ChannelData, RFC 8656 section 12.4.
    Channel(u16),
}

impl Way {
    /// That of this datagram, which is for the other end, if it is one that can be told.
    pub(super) fn of(datagram: &[u8]) -> Option<Self> {
        match datagram.first()? {
            0x40..=0x4f => be16(datagram, 0).map(Self::Channel),
            // Media and records of DTLS, RFC 7983.
            20..=63 | 128..=191 => Some(Self::Plain),
            0..=3 => (matches!(check(datagram), Some(Check::Request(_)))
                && attribute(datagram, USERNAME).is_some())
            .then_some(Self::Plain),
            _ => None,
        }
    }

    /// Puts what one end says into what travels this way.
    pub(super) fn frame(self, said: &[u8]) -> Cow<'_, [u8]> {
        let (Self::Channel(number), Ok(length)) = (self, u16::try_from(said.len())) else {
            return said.into();
        };
        [&number.to_be_bytes(), &length.to_be_bytes(), said].concat().into()
    }
}

/// Whether it asks another peer, in the open, if it can be heard, and for no more than that.
pub(super) fn is_plain_check(datagram: &[u8]) -> bool {
    matches!(check(datagram), Some(Check::Request(_)))
        && attribute(datagram, USERNAME).is_some()
        && attribute(datagram, USE_CANDIDATE).is_none()
}

/// What a server would say that has no room, to an Allocate request.
pub(super) fn refusal(request: &[u8]) -> Option<Vec<u8>> {
    let Kind::AllocateRequest { transaction, .. } = look(request) else { return None };
    let mut message = Vec::with_capacity(28);
    message.extend_from_slice(&ALLOCATE_ERROR.to_be_bytes());
    message.extend_from_slice(&8_u16.to_be_bytes());
    message.extend_from_slice(&MAGIC_COOKIE);
    message.extend_from_slice(&transaction);
    message.extend_from_slice(&ERROR_CODE.to_be_bytes());
    message.extend_from_slice(&4_u16.to_be_bytes());
    // Insufficient Capacity, 508.
    message.extend_from_slice(&[0, 0, 5, 8]);
    Some(message)
}

fn channel_data(datagram: &[u8]) -> Kind<'_> {
    match be16(datagram, 2).map(usize::from) {
        Some(length) if datagram.len() >= 4 + length => Kind::Payload(length),
        Some(_) | None => Kind::Other,
    }
}

fn message(datagram: &[u8]) -> Option<Kind<'_>> {
    if datagram.get(4..8)? != MAGIC_COOKIE {
        return None;
    }
    let transaction = datagram.get(8..20)?.try_into().ok()?;
    let kind = match be16(datagram, 0)? {
        SEND_INDICATION | DATA_INDICATION => Kind::Payload(attribute(datagram, DATA)?.len()),
        ALLOCATE_REQUEST => {
            Kind::AllocateRequest { transaction, has_credentials: attribute(datagram, USERNAME).is_some() }
        }
        ALLOCATE_SUCCESS => Kind::AllocateSuccess,
        ALLOCATE_ERROR => {
            let value = attribute(datagram, ERROR_CODE)?;
            let (class, number) = (u16::from(value.get(2)? & 7), u16::from(*value.get(3)?));
            Kind::AllocateError { transaction, code: class * 100 + number, reason: value.get(4..)? }
        }
        _ => Kind::Other,
    };
    Some(kind)
}

fn attribute(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(20..)?;
    loop {
        let (kind, length) = (be16(rest, 0)?, usize::from(be16(rest, 2)?));
        if kind == wanted {
            return rest.get(4..4 + length);
        }
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const USE_CANDIDATE: u16 = 0x0025;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const ALLOCATE_REQUEST: u16 = 0x0003;
const ALLOCATE_SUCCESS: u16 = 0x0103;
const ALLOCATE_ERROR: u16 = 0x0113;
const SEND_INDICATION: u16 = 0x0016;
const DATA_INDICATION: u16 = 0x0017;
const USERNAME: u16 = 0x0006;
const ERROR_CODE: u16 = 0x0009;
const DATA: u16 = 0x0013;

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::net) fn stun(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, value) in attributes {
            body.extend_from_slice(&kind.to_be_bytes());
            body.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = kind.to_be_bytes().to_vec();
        message.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        message.extend_from_slice(&MAGIC_COOKIE);
        message.extend_from_slice(b"transaction!");
        message.extend_from_slice(&body);
        message
    }

    #[test]
    fn payload_is_counted_without_framing_and_padding() {
        assert_eq!(look(b"\x40\x01\x00\x05hello\0\0\0"), Kind::Payload(5));
        let indication = stun(SEND_INDICATION, &[(0x0012, &[0; 8]), (DATA, b"hello")]);
        assert_eq!(look(&indication), Kind::Payload(5));
        assert_eq!(look(&stun(DATA_INDICATION, &[(DATA, b"")])), Kind::Payload(0));
    }

    #[test]
    fn a_refused_allocation_tells_code_and_reason() {
        let refused = stun(ALLOCATE_ERROR, &[(ERROR_CODE, b"\0\0\x04\x01Unauthorized")]);
        let transaction = *b"transaction!";
        assert_eq!(look(&refused), Kind::AllocateError { transaction, code: 401, reason: b"Unauthorized" });
    }

    #[test]
    fn a_request_with_a_username_has_credentials() {
        let transaction = *b"transaction!";
        for (attributes, has_credentials) in [(&[(USERNAME, &b"u"[..])][..], true), (&[], false)] {
            let request = stun(ALLOCATE_REQUEST, attributes);
            assert_eq!(look(&request), Kind::AllocateRequest { transaction, has_credentials });
        }
    }

    #[test]
    fn media_and_checks_are_none_of_these() {
        assert_eq!(look(&stun(0x0001, &[(USERNAME, b"a:b")])), Kind::Other);
        assert_eq!(look(&[0x80, 96, 0, 1]), Kind::Other);
        assert_eq!(look(&[]), Kind::Other);
    }

    #[test]
    fn what_goes_to_the_other_end_tells_the_way_and_what_goes_to_a_server_does_not() {
        let check = stun(BINDING_REQUEST, &[(USERNAME, b"a:b")]);
        for plain in [&[0x80, 96, 0, 1][..], &[23, 254, 253], &check] {
            assert_eq!(Way::of(plain), Some(Way::Plain));
        }
        assert_eq!(Way::of(b"\x40\x01\x00\x05hello"), Some(Way::Channel(0x4001)));
        let asked = stun(BINDING_REQUEST, &[]);
        let allocated = stun(ALLOCATE_REQUEST, &[(USERNAME, b"user")]);
        let indicated = stun(SEND_INDICATION, &[(0x0012, &[0; 8]), (DATA, b"hello")]);
        for other in [&asked[..], &allocated, &indicated, b"", b"\x40"] {
            assert_eq!(Way::of(other), None);
        }
        assert_eq!(&*Way::Plain.frame(b"hello"), b"hello");
        assert_eq!(&*Way::Channel(0x4001).frame(b"hello"), b"\x40\x01\x00\x05hello");
    }

    #[test]
    fn what_is_framed_is_found_and_what_is_not_is_itself() {
        let indication = stun(SEND_INDICATION, &[(0x0012, &[0; 8]), (DATA, b"hello")]);
        for datagram in [&b"\x40\x01\x00\x05hello\0\0\0"[..], &indication, b"hello"] {
            assert_eq!(between_the_ends(datagram), b"hello");
        }
        let torn = b"\x40\x01\x00\x05hell";
        assert_eq!(between_the_ends(torn), torn);
    }

    #[test]
    fn checks_are_told_by_their_transaction() {
        let transaction = *b"transaction!";
        assert_eq!(check(&stun(BINDING_REQUEST, &[(USERNAME, b"a:b")])), Some(Check::Request(transaction)));
        assert_eq!(check(&stun(BINDING_SUCCESS, &[])), Some(Check::Success(transaction)));
        assert_eq!(check(&stun(ALLOCATE_SUCCESS, &[])), None);
        assert_eq!(check(b"\x01\x01\0\0no cookie, no check"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in any::<u16>()) {
            let mut message = stun(kind, &[]);
            message.extend_from_slice(&bytes);
            for datagram in [&bytes, &message] {
                let _ = (look(datagram), check(between_the_ends(datagram)));
            }
        }
    }
}
