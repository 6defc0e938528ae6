//! Encoding of the writes of one revision in the log: for each the key's length (u16), the key, the value's
//! length plus one or zero for a delete (u32), the value. Little endian.

use bytes::Bytes;
use orch_base::codec::{Input, Malformed, length, put_short_text};
use orch_core::store::{Key, Write};

pub(super) fn encode(writes: &[Write]) -> Vec<u8> {
    let mut out = Vec::with_capacity(writes.iter().map(|write| 6 + write.size_bytes()).sum());
    for Write { key, value } in writes {
        put_short_text(key.as_str(), &mut out);
        out.extend(length(value.as_ref().map_or(0, |value| value.len() + 1)).to_le_bytes());
        out.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    out
}

/// The writes again.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Write>, Malformed> {
    let mut input = Input(Bytes::copy_from_slice(bytes));
    let mut writes = Vec::new();
    while !input.0.is_empty() {
        let key = input.short_text(Key::MAX_LEN)?;
        let key = Key::new(key).map_err(|_| Malformed("a key breaks the rules of keys"))?;
        let value = match (input.u32()? as usize).checked_sub(1) {
            None => None,
            Some(length) => Some(input.take(length)?),
        };
        writes.push(Write { key, value });
    }
    Ok(writes)
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
            Write::delete(key(&["c".repeat(170), "d".repeat(170), "e".repeat(170)].join("/"))),
        ];
        let bytes = encode(&writes);
        assert_eq!(decode(&bytes), Ok(writes));
        for cut in (1..bytes.len()).filter(|cut| ![14, 21].contains(cut)) {
            assert_ne!(decode(&bytes[..cut]).map(|writes| writes.len()), Ok(3), "cut at {cut}");
        }
        assert!(decode(&bytes[..3]).is_err());
    }
}
