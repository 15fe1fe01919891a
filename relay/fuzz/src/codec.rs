//! Any bytes through everything that reads; what reads as a message is written again and must read the same.

use farcall_relay::stun::{
    AttributeType, ChannelData, ErrorCode, IntegrityKey, Message, MessageWriter, address, channel_data,
    classic, framing,
};

/// Panics if the codec contradicts itself.
pub fn run(bytes: &[u8]) {
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
