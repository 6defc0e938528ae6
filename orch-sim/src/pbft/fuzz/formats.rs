use bytes::Bytes;
use orch_consensus::pbft::{Image, Message, wal as log};

use super::input::Input;

/// Reads the bytes as a message from the network.
///
/// # Panics
/// If they are read as a message that has another encoding too, or of which a prefix is a message.
pub fn message(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(message) = Message::from_wire(bytes.clone()) {
        assert_eq!(message.to_wire(), bytes, "each message has one encoding");
        let part = bytes.slice(..bytes.len() - 1);
        assert!(Message::from_wire(part).is_err(), "a beginning of a message is none");
    }
}

/// Reads the bytes as the log of a replica, and as the contents of a log's frames, whose checksums no fuzzer
/// would guess.
///
/// # Panics
/// If what is read would be written otherwise, or a prefix of a log is read as something else than its
/// beginning.
pub fn wal(bytes: &[u8]) {
    read(bytes);
    let (mut input, mut sealed) = (Input::new(bytes), log::empty());
    while let Some(content) = input.part() {
        sealed.extend(log::framed(content));
    }
    if let Some(whole) = read(&sealed) {
        let torn = read(&sealed[..sealed.len() - 1]).expect("a beginning of a log is a log");
        assert!(
            whole.records.starts_with(&torn.records),
            "what is torn ends the log and changes nothing before"
        );
    }
}

fn read(bytes: &[u8]) -> Option<Image> {
    let (image, sound) = log::read(&Bytes::copy_from_slice(bytes)).ok()?;
    let written = log::image(&image);
    if sound > 0 {
        assert_eq!(written, bytes[..sound], "each log has one encoding");
    }
    let length = written.len();
    assert_eq!(log::read(&written.into()), Ok((image.clone(), length)), "a log is read as it was written");
    Some(image)
}
