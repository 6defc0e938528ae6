//! Keys that belong to one author.

use orch_core::{
    store::{Key, KeyError},
    transport::PeerId,
};

const PREFIX: &str = "by/";

/// The rule for keys that one author writes and nobody else: `by/<public key in hexadecimal>/...`.
#[derive(Clone, Copy, Debug)]
pub struct Owned;

impl Owned {
    /// The start of all keys that belong to `author`.
    #[must_use]
    pub fn prefix(author: PeerId) -> String {
        format!("{PREFIX}{author}/")
    }

    /// A key that belongs to `author`.
    ///
    /// # Errors
    /// When the rest of it breaks the rules of keys.
    pub fn key(author: PeerId, rest: &str) -> Result<Key, KeyError> {
        Key::new(Self::prefix(author) + rest)
    }

    /// Owner of the key; `None` for one that everybody may write.
    #[must_use]
    pub fn owner(key: &Key) -> Option<PeerId> {
        let (author, _) = key.as_str().strip_prefix(PREFIX)?.split_once('/')?;
        // Only the form that `prefix` makes: there must not be two ways to write one owner.
        author.parse().ok().filter(|owner: &PeerId| owner.to_string() == author)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read_from_keys() {
        let author = PeerId::from_bytes([0xab; 32]);
        let key = Owned::key(author, "usage/cpu").unwrap();
        assert_eq!(Owned::owner(&key), Some(author));
        assert!(Owned::key(author, "").is_err());
        for free in ["by/me/x", "bye/x", "by", &key.as_str().to_uppercase(), &key.as_str()[..67]] {
            assert_eq!(Owned::owner(&Key::new(free).unwrap()), None, "{free}");
        }
    }
}
