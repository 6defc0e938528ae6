//! Keys are readable paths: `tasks/<id>`, `nodes/<id>`. Their parts must be file names too, with room for
//! what a backend adds, because one backend is a Git repository. A key may go on where another one ends (`a`
//! and `a/b`): a backend with files tells their files and directories apart. Scans are in the order of the
//! bytes of whole keys, in which `a-` is before `a/b`.

use std::{borrow::Borrow, fmt, sync::Arc};

/// A path of one or more parts separated by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {text:?} is not valid: {rule}")]
pub struct KeyError {
    text: String,
    rule: &'static str,
}

impl Key {
    /// The longest key in bytes.
    pub const MAX_LEN: usize = 512;

    /// The longest part of a key in bytes: 55 less than file systems take.
    pub const PART_MAX_LEN: usize = 200;

    /// Parses a key: at most 512 bytes; parts have at most 200 bytes each, are not empty, not `.` or `..`,
    /// and have no control characters and no backslash.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn new(text: impl AsRef<str>) -> Result<Self, KeyError> {
        let text = text.as_ref();
        match broken_rule(text) {
            None => Ok(Self(text.into())),
            Some(rule) => Err(KeyError { text: text.chars().take(80).collect(), rule }),
        }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn broken_rule(text: &str) -> Option<&'static str> {
    if text.len() > Key::MAX_LEN {
        return Some("it is longer than 512 bytes");
    }
    if text.chars().any(|c| c.is_control() || c == '\\') {
        return Some("it contains a control character or a backslash");
    }
    if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some("a part is empty, '.' or '..'");
    }
    if text.split('/').any(|part| part.len() > Key::PART_MAX_LEN) {
        return Some("a part is longer than 200 bytes");
    }
    None
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

/// Keys are ordered by their bytes, like texts, so that a map of keys can be searched by a prefix.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_safe_paths() {
        for bad in ["", "/", "a/", "/a", "a//b", ".", "a/../b", "a/.", "a\nb", "a\\b", &"x".repeat(201)] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        let longest = format!("{0}/{0}/{1}", "x".repeat(200), "y".repeat(110));
        assert!(Key::new(format!("{longest}z")).is_err(), "513 bytes");
        for good in ["a", "tasks/1", "a.b/c", "...", "ä/ö", "a b", &longest] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
    }
}
