//! Fuzz target of the store's messages.

use bytes::Bytes;
use orch_core::store::{Key, Write};
use orch_store::crdt::{
    AuthorKey, Difference, Evidence, Fingerprint, Hash, Head, Item, Message, Range, Segment, Stamp,
};

/// For any bytes: nothing panics, and what can be read is written as it was.
///
/// # Panics
/// If that does not hold.
pub fn message(bytes: &[u8]) {
    if let Ok(message) = Message::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(message.encode(), bytes, "a message has one encoding");
        if let Message::Supply { segments, .. } | Message::Patch { segments } = message {
            segments.iter().for_each(segment);
        }
    }
    segment(&Bytes::copy_from_slice(bytes));
}

fn segment(bytes: &Bytes) {
    if let Ok(segment) = Segment::decode(bytes.clone()) {
        assert_eq!(segment.encode(), *bytes, "a segment has one encoding");
    }
}

/// A message of each kind, to begin with.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let key = AuthorKey::from_seed(&[1; 32]);
    let (author, group) = (key.author(), Hash::of(b"seeds"));
    let at = |text| Key::new(text).expect("a valid key");
    let writes = vec![Write::put(at("a"), "1"), Write::delete(at("b"))];
    let segment = Segment::sign(&key, group, Head::default(), Stamp::default(), writes);
    let head = segment.signed().head();
    let encoded: Bytes = segment.encode().into();
    let range = Range { from: "a".to_owned(), to: Some("b".to_owned()) };
    let item = Item { key: at("a"), author, position: 1, stamp: Stamp::default(), deleted: false };
    let parts = Difference::Parts(vec![(Range::all(), Fingerprint::default())]);
    let evidence = Evidence { first: *segment.signed(), second: *segment.signed() };
    let messages = [
        Message::Digest { group, complete: true, heads: vec![(author, head)] },
        Message::Want { author, after: head },
        Message::Supply { author, after: 0, more: true, segments: vec![encoded.clone()] },
        Message::Evidence(Box::new(evidence)),
        Message::Compare { nonce: [7; 16], ranges: vec![(range.clone(), Fingerprint::default())] },
        Message::Compared {
            nonce: [7; 16],
            answers: vec![(range.clone(), parts), (range.clone(), Difference::None)],
        },
        Message::Compared { nonce: [7; 16], answers: vec![(range, Difference::Items(vec![item.clone()]))] },
        Message::Fetch { items: vec![item] },
        Message::Patch { segments: vec![encoded] },
    ];
    messages.iter().map(Message::encode).collect()
}
