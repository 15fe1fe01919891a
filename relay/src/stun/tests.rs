//! The RFCs' own messages, and properties of the codec as a whole.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

const REQUEST: &str = include_str!("../../tests/vectors/rfc5769-2.1-request.hex");
const IPV4_RESPONSE: &str = include_str!("../../tests/vectors/rfc5769-2.2-ipv4-response.hex");
const IPV6_RESPONSE: &str = include_str!("../../tests/vectors/rfc5769-2.3-ipv6-response.hex");
const LONG_TERM_REQUEST: &str = include_str!("../../tests/vectors/rfc5769-2.4-long-term-request.hex");
const USERHASH_REQUEST: &str = include_str!("../../tests/vectors/rfc8489-b.1-userhash-sha256.hex");
const KATAKANA: &str = "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}";

#[test]
fn rfc5769_sample_request() {
    let bytes = vector(REQUEST);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Method::BINDING));
    assert_eq!(message.find_text(AttributeType::SOFTWARE), Some("STUN test client"));
    assert_eq!(message.find_text(AttributeType::USERNAME), Some("evtj:h6vY"));
    assert!(message.has_fingerprint() && message.verify_integrity(&short_term()));
    assert!(!message.verify_integrity(&IntegrityKey::short_term("another")));
}

#[test]
fn rfc5769_sample_responses() {
    let addresses = ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"];
    for (text, address) in [IPV4_RESPONSE, IPV6_RESPONSE].into_iter().zip(addresses) {
        let bytes = vector(text);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, Method::BINDING));
        assert_eq!(
            message.find_xor_address(AttributeType::XOR_MAPPED_ADDRESS),
            Some(address.parse().unwrap())
        );
        assert!(message.has_fingerprint() && message.verify_integrity(&short_term()));
    }
}

#[test]
fn rfc5769_sample_request_with_long_term_authentication_and_back() {
    let bytes = vector(LONG_TERM_REQUEST);
    let message = Message::parse(&bytes).unwrap();
    let key = IntegrityKey::long_term_md5(KATAKANA, "example.org", "TheMatrIX");
    assert_eq!(message.find_text(AttributeType::USERNAME), Some(KATAKANA));
    assert!(message.verify_integrity(&key) && !message.has_fingerprint());

    // Its padding is zero, as ours is, so writing it again gives the same bytes.
    let mut written = Vec::new();
    MessageWriter::new(&mut written, Class::Request, Method::BINDING, message.transaction_id())
        .attribute(AttributeType::USERNAME, KATAKANA.as_bytes())
        .attribute(AttributeType::NONCE, b"f//499k954d6OL34oL9FSTvy64sA")
        .attribute(AttributeType::REALM, b"example.org")
        .integrity(&key)
        .finish()
        .unwrap();
    assert_eq!(written, bytes);
}

#[test]
fn rfc8489_sample_request_with_userhash_and_sha256_and_back() {
    let bytes = vector(USERHASH_REQUEST);
    let message = Message::parse(&bytes).unwrap();
    let key = IntegrityKey::long_term_sha256(KATAKANA, "example.org", "TheMatrIX");
    assert!(message.has_integrity_sha256() && !message.has_integrity());
    assert!(message.verify_integrity_sha256(&key));

    let mut written = Vec::new();
    let mut writer =
        MessageWriter::new(&mut written, Class::Request, Method::BINDING, message.transaction_id());
    for attribute in message.attributes() {
        writer.attribute(attribute.kind, attribute.value);
    }
    writer.integrity_sha256(&key).finish().unwrap();
    assert_eq!(written, bytes);
}

#[test]
fn every_flipped_bit_of_an_authenticated_message_is_noticed() {
    let bytes = vector(REQUEST);
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        let accepted = Message::parse(&flipped)
            .is_ok_and(|message| message.has_fingerprint() && message.verify_integrity(&short_term()));
        assert!(!accepted, "bit {at}");
    }
}

#[test]
fn a_truncated_sha256_is_accepted_down_to_sixteen_bytes_and_no_further() {
    let key = IntegrityKey::short_term("password");
    let id = TransactionId([1; 12]);
    for length in 0..=36 {
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, id);
        writer.attribute(AttributeType::SOFTWARE, b"x").finish().unwrap();
        let mut value = key.sha256(&bytes, length).to_vec();
        value.resize(length, 0);
        bytes.extend_from_slice(&AttributeType::MESSAGE_INTEGRITY_SHA256.0.to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        bytes.extend_from_slice(&value);
        bytes.resize(padded(bytes.len()), 0);
        let total = u16::try_from(bytes.len() - HEADER_BYTES).unwrap().to_be_bytes();
        bytes[2..4].copy_from_slice(&total);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(message.verify_integrity_sha256(&key), [16, 20, 24, 28, 32].contains(&length), "{length}");
    }
}

#[test]
fn what_follows_the_integrity_does_not_count() {
    let key = IntegrityKey::short_term("password");
    let mut bytes = Vec::new();
    MessageWriter::new(&mut bytes, Class::Request, Method::REFRESH, TransactionId([1; 12]))
        .attribute(AttributeType::LIFETIME, &60u32.to_be_bytes())
        .integrity(&key)
        .attribute(AttributeType::USERNAME, b"mallory")
        .attribute(AttributeType::LIFETIME, &0u32.to_be_bytes())
        .finish()
        .unwrap();
    let message = Message::parse(&bytes).unwrap();
    assert!(message.verify_integrity(&key));
    assert_eq!(message.find(AttributeType::USERNAME), None);
    assert_eq!(message.attributes().count(), 1);
}

#[test]
fn of_two_attributes_of_a_kind_the_first_counts() {
    let mut bytes = Vec::new();
    let addresses: [SocketAddr; 2] = ["192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()];
    MessageWriter::new(&mut bytes, Class::Indication, Method::SEND, TransactionId([1; 12]))
        .xor_address(AttributeType::XOR_PEER_ADDRESS, addresses[0])
        .xor_address(AttributeType::XOR_PEER_ADDRESS, addresses[1])
        .finish()
        .unwrap();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.find_xor_address(AttributeType::XOR_PEER_ADDRESS), Some(addresses[0]));
}

#[test]
fn a_fingerprint_that_is_wrong_or_not_last_spoils_the_message() {
    let id = TransactionId([1; 12]);
    let mut bytes = Vec::new();
    MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, id).fingerprint().finish().unwrap();
    assert!(Message::parse(&bytes).unwrap().has_fingerprint());
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(Message::parse(&bytes).unwrap_err(), ParseError::Fingerprint);

    MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, id)
        .fingerprint()
        .attribute(AttributeType::SOFTWARE, b"after")
        .finish()
        .unwrap();
    assert_eq!(Message::parse(&bytes).unwrap_err(), ParseError::Fingerprint);
}

#[test]
fn a_message_longer_than_its_length_field_is_an_error_and_not_a_lie() {
    let mut bytes = Vec::new();
    let id = TransactionId([1; 12]);
    let half = vec![0; 0x8000];
    let mut writer = MessageWriter::new(&mut bytes, Class::Indication, Method::DATA, id);
    assert_eq!(writer.attribute(AttributeType::DATA, &half).finish(), Ok(()));
    assert_eq!(writer.attribute(AttributeType::DATA, &half).finish(), Err(TooLong));
    let mut writer = MessageWriter::new(&mut bytes, Class::Indication, Method::DATA, id);
    assert_eq!(writer.attribute(AttributeType::DATA, &vec![0; 0x10000]).finish(), Err(TooLong));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        exercise(&bytes);
    }

    #[test]
    fn no_bytes_behind_a_good_header_panic(body: Vec<u8>, message_type in 0u16..0x4000, id: [u8; 12]) {
        let mut bytes = message_type.to_be_bytes().to_vec();
        bytes.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&body);
        exercise(&bytes);
    }

    #[test]
    fn what_is_written_reads_back_and_its_padding_is_zero(
        attributes in proptest::collection::vec((any::<u16>(), proptest::collection::vec(any::<u8>(), 0..70)), 0..8),
        id: [u8; 12],
        key in "\\PC*",
    ) {
        // Attributes whose place or content the reader checks are the writer's own to add.
        let special = [0x0008, 0x001c, 0x8028];
        let attributes: Vec<_> = attributes.into_iter().filter(|(kind, _)| !special.contains(kind)).collect();
        let key = IntegrityKey::short_term(&key);
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, Method::ALLOCATE, TransactionId(id));
        for (kind, value) in &attributes {
            writer.attribute(AttributeType(*kind), value);
        }
        writer.integrity(&key).integrity_sha256(&key).fingerprint().finish().unwrap();

        let message = Message::parse(&bytes).unwrap();
        prop_assert!(message.verify_integrity(&key) && message.verify_integrity_sha256(&key));
        prop_assert!(message.has_fingerprint());
        let read: Vec<_> = message.attributes().map(|found| (found.kind.0, found.value.to_vec())).collect();
        prop_assert_eq!(&read, &attributes);
        let mut at = HEADER_BYTES;
        for (_, value) in &attributes {
            let end = at + ATTRIBUTE_HEADER_BYTES + value.len();
            prop_assert!(bytes[end..padded(end)].iter().all(|byte| *byte == 0));
            at = padded(end);
        }
    }
}

/// Everything that reads.
fn exercise(bytes: &[u8]) {
    let key = short_term();
    let _ = ChannelData::parse(bytes);
    if let Ok(message) = Message::parse(bytes) {
        let _ = (message.verify_integrity(&key), message.verify_integrity_sha256(&key));
        let _ = message.unknown_attributes(&[]).count();
        for attribute in message.attributes() {
            let _ = (ErrorCode::parse(attribute.value), message.find_text(attribute.kind));
            let _ = (message.find_xor_address(attribute.kind), address::parse_plain(attribute.value));
        }
    }
}

fn short_term() -> IntegrityKey {
    IntegrityKey::short_term("VOkJxbRl1RmTxUk/WvJxBt")
}

fn vector(text: &str) -> Vec<u8> {
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}
