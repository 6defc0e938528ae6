//! Prefixes of keys: the end of the range of keys that start with one.

#[cfg(feature = "postgres")]
use orch_core::store::Key;

/// False for texts that no key starts with because of their length or their characters: a server may not
/// take them as a text.
#[cfg(feature = "postgres")]
pub(crate) fn may_begin_a_key(prefix: &str) -> bool {
    prefix.len() <= Key::MAX_LEN && !prefix.chars().any(|c| c.is_control() || c == '\\')
}

/// The first text, in byte order, after everything that starts with `prefix`; `None` when nothing comes after
/// it.
pub(crate) fn end_of(prefix: &str) -> Option<String> {
    let mut rest = prefix;
    while let Some(last) = rest.chars().next_back() {
        rest = &rest[..rest.len() - last.len_utf8()];
        if let Some(next) = next_char(last) {
            let mut end = String::with_capacity(prefix.len() + 1);
            end.push_str(rest);
            end.push(next);
            return Some(end);
        }
    }
    None
}

/// The order of characters is that of their bytes in UTF-8.
fn next_char(c: char) -> Option<char> {
    match c {
        '\u{d7ff}' => Some('\u{e000}'),
        c => char::from_u32(u32::from(c) + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::end_of;

    #[test]
    fn nothing_lies_between_a_prefix_and_its_end() {
        for (prefix, end) in [
            ("", None),
            ("a", Some("b")),
            ("a/", Some("a0")),
            ("a\u{7f}", Some("a\u{80}")),
            ("\u{d7ff}", Some("\u{e000}")),
            ("a\u{10ffff}", Some("b")),
            ("\u{10ffff}\u{10ffff}", None),
        ] {
            assert_eq!(end_of(prefix).as_deref(), end, "{prefix:?}");
            if let Some(end) = end {
                let last = format!("{prefix}\u{10ffff}\u{10ffff}");
                assert!(*prefix < *end && *last < *end, "{prefix:?}");
            }
        }
    }
}
