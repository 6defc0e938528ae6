//! Bytes as hexadecimal digits, two each.

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses exactly `2 * N` digits; `None` for anything else.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).expect("two digits are a byte");
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_are_read_back() {
        assert_eq!(to_hex(&[0, 0xaf, 9]), "00af09");
        assert_eq!(from_hex("00aF09"), Some([0, 0xaf, 9]));
        for bad in ["", "00af0", "00af0g", "00af0900", "+0af09", "éaf09"] {
            assert_eq!(from_hex::<3>(bad), None, "{bad}");
        }
    }
}
