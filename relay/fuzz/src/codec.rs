//! Any bytes through everything that reads; what reads as a message is written again and must read the same.

use std::time::Duration;

use farcall_relay::auth::{AccessToken, OauthKey};
use farcall_relay::stun::{
    AttributeType, ChannelData, ErrorCode, IntegrityKey, Message, MessageWriter, PasswordAlgorithm, address,
    channel_data, classic, framing,
};

/// Panics if the codec contradicts itself.
pub fn run(bytes: &[u8]) {
    open_token(bytes);
    if let Some(algorithm) = PasswordAlgorithm::parse(bytes) {
        assert_eq!(algorithm.to_value(), bytes);
    }
    if let Ok(message) = Message::parse(bytes) {
        read(&message);
        rewrite(&message);
    }
    if let Some(ChannelData { channel, data }) = ChannelData::parse(bytes) {
        let header = channel_data::header(channel, data.len()).expect("it was read from 16 bits");
        assert_eq!(bytes[..4 + data.len()], [&header, data].concat());
    }
    if let Ok(framing::Framed::Frame(frame)) = framing::first_frame(bytes) {
        assert!(bytes.starts_with(frame) && frame.len() <= framing::MAX_FRAME_BYTES);
    }
    let mut answer = Vec::new();
    classic::answer_binding(bytes, ([192, 0, 2, 1], 1).into(), &mut answer);
}

fn read(message: &Message<'_>) {
    let key = IntegrityKey::short_term("key");
    assert!(message.has_integrity() || !message.verify_integrity(&key));
    assert!(message.has_integrity_sha256() || !message.verify_integrity_sha256(&key));
    for attribute in message.attributes() {
        let _ = (ErrorCode::parse(attribute.value), message.find_text(attribute.kind));
        if let Some(address) = message.find_xor_address(attribute.kind) {
            let encoded = address::EncodedAddress::xor(address, &message.transaction_id());
            assert_eq!(address::parse_xor(encoded.as_bytes(), &message.transaction_id()), Some(address));
        }
    }
    assert!(message.unknown_attributes(&[]).all(AttributeType::is_comprehension_required));
}

/// As a token, and as what is inside of one.
fn open_token(bytes: &[u8]) {
    let key = OauthKey::new("kid".into(), &[1; 32]).expect("32 bytes");
    assert!(AccessToken::open(bytes, &key, "fuzz").is_none(), "a forged token");
    let Some((timestamp, mac_key)) = bytes.split_first_chunk() else { return };
    let (timestamp, lifetime) = (u64::from_be_bytes(*timestamp), Duration::from_secs(600));
    let token = AccessToken { mac_key: mac_key.to_vec(), timestamp, lifetime };
    if let Ok(sealed) = token.seal(&key, "fuzz", [7; 12]) {
        let opened = AccessToken::open(&sealed, &key, "fuzz");
        assert_eq!(opened, (!token.mac_key.is_empty()).then_some(token));
    }
}

fn rewrite(message: &Message<'_>) {
    let mut bytes = Vec::new();
    let mut writer =
        MessageWriter::new(&mut bytes, message.class(), message.method(), message.transaction_id());
    for attribute in message.attributes() {
        writer.attribute(attribute.kind, attribute.value);
    }
    let key = IntegrityKey::short_term("key");
    if writer.integrity(&key).fingerprint().finish().is_err() {
        return; // As long as a message can be, and now longer.
    }
    let again = Message::parse(&bytes).expect("what is written reads");
    assert!(again.verify_integrity(&key) && again.has_fingerprint());
    assert!(again.attributes().eq(message.attributes()));
    assert_eq!((again.class(), again.method()), (message.class(), message.method()));
}
