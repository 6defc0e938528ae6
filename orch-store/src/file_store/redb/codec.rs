//! Encoding of the writes of one revision in the log: for each the key's length (u16), the key, the value's
//! length plus one or zero for a delete (u32), the value. Little endian.

use bytes::Bytes;
use orch_core::store::{Key, Write};

pub(super) fn encode(writes: &[Write]) -> Vec<u8> {
    let size = |write: &Write| 6 + write.key.as_str().len() + write.value.as_ref().map_or(0, Bytes::len);
    let mut out = Vec::with_capacity(writes.iter().map(size).sum());
    for Write { key, value } in writes {
        let key = key.as_str().as_bytes();
        out.extend(u16::try_from(key.len()).expect("keys are at most 512 bytes").to_le_bytes());
        out.extend(key);
        let size = value.as_ref().map_or(0, |value| value.len() + 1);
        out.extend(u32::try_from(size).expect("values are far below 4 GiB").to_le_bytes());
        out.extend(value.as_deref().unwrap_or_default());
    }
    out
}

/// The writes again, or `None` when the bytes are no such list.
pub(super) fn decode(mut from: &[u8]) -> Option<Vec<Write>> {
    let mut writes = Vec::new();
    while !from.is_empty() {
        let size = u16::from_le_bytes(*take(&mut from, 2)?.first_chunk()?);
        let key = Key::new(std::str::from_utf8(take(&mut from, size.into())?).ok()?).ok()?;
        let size = u32::from_le_bytes(*take(&mut from, 4)?.first_chunk()?);
        let value = match size.checked_sub(1) {
            None => None,
            Some(size) => Some(Bytes::copy_from_slice(take(&mut from, usize::try_from(size).ok()?)?)),
        };
        writes.push(Write { key, value });
    }
    Some(writes)
}

fn take<'a>(from: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, rest) = from.split_at_checked(count)?;
    *from = rest;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_round_trip_and_broken_ones_are_refused() {
        let key = |text: &str| Key::new(text).unwrap();
        let writes = vec![
            Write::put(key("a/ä"), "value"),
            Write::put(key("b"), ""),
            Write::delete(key(&"c".repeat(512))),
        ];
        let bytes = encode(&writes);
        assert_eq!(decode(&bytes), Some(writes));
        for cut in (1..bytes.len()).filter(|cut| ![14, 21].contains(cut)) {
            assert_ne!(decode(&bytes[..cut]).map(|writes| writes.len()), Some(3), "cut at {cut}");
        }
        assert_eq!(decode(&bytes[..3]), None);
    }
}
