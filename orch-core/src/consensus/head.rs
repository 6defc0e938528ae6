//! The record `consensus/head` of a [`StoreConsensus`](super::StoreConsensus): its versions are the order of
//! all decisions.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::ConsensusError;
use crate::{
    hex::to_hex,
    store::{Guard, Key, Position, StoreError},
};

/// The head as one member has read it. Each names its history and the hash of the one before, so that a
/// member notices when the store was replaced by another, older or newer one, under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    version: Position,
    hash: [u8; 32],
    content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    v: u8,
    /// Batches of decisions so far.
    batches: u64,
    /// Drawn by the first decision. Absent from heads of format 1, as is `previous`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    history: Option<Uuid>,
    /// SHA-256 of the head before, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
}

const VERSION: u8 = 2;

impl Head {
    /// Guard and value of the head that follows `known`.
    pub(super) fn after(known: Option<&Self>, random: impl FnOnce() -> u128) -> (Guard, Bytes) {
        let (guard, batches, history) = match known {
            None => (Guard::Absent(head_key()), 1, None),
            Some(known) => {
                let guard = Guard::Version(head_key(), known.version);
                (guard, known.content.batches + 1, known.content.history)
            }
        };
        let history = Some(history.unwrap_or_else(|| Uuid::from_u128(random())));
        let previous = known.map(|known| to_hex(&known.hash));
        let content = Content { v: VERSION, batches, history, previous };
        (guard, serde_json::to_vec(&content).expect("plain data has a JSON form").into())
    }

    /// Reads the head that was written at `version`.
    pub(super) fn read(version: Position, value: &[u8]) -> Result<Self, ConsensusError> {
        let corrupt = |problem: String| StoreError::Corrupt(format!("consensus/head {problem}"));
        let content: Content =
            serde_json::from_slice(value).map_err(|error| corrupt(format!("cannot be read: {error}")))?;
        if !(1..=VERSION).contains(&content.v) {
            let problem = format!("has format {}; this version reads formats up to {VERSION}", content.v);
            return Err(corrupt(problem).into());
        }
        Ok(Self { version, hash: Sha256::digest(value).into(), content })
    }

    pub(super) fn version(&self) -> Position {
        self.version
    }

    /// True for the next head after `known`. A head of format 1 carries its number only.
    pub(super) fn follows(&self, known: Option<&Self>) -> bool {
        let Some(known) = known else { return self.content.batches == 1 };
        let linked = self.content.v == 1 || self.content.previous == Some(to_hex(&known.hash));
        self.content.batches == known.content.batches + 1 && linked
    }

    /// True if this one, read after `known`, shows that the store's history was replaced: it is older, or
    /// another one with the same revision or number.
    pub(super) fn replaces(&self, known: &Self) -> bool {
        let (revision, seen) = (self.version.revision, known.version.revision);
        revision < seen || self.content.batches <= known.content.batches && self != known
    }
}

pub(super) fn head_key() -> Key {
    Key::new("consensus/head").expect("a valid key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Incarnation, Revision};

    fn at(revision: u64) -> Position {
        Position::new(Revision(revision), Incarnation(revision))
    }

    fn next(known: Option<&Head>, version: u64) -> Head {
        let (_, value) = Head::after(known, || Uuid::new_v4().as_u128());
        Head::read(at(version), &value).unwrap()
    }

    #[test]
    fn a_head_follows_the_one_before_it_and_no_other() {
        let first = next(None, 5);
        let (second, other) = (next(Some(&first), 7), next(None, 5));
        assert!(first.follows(None) && second.follows(Some(&first)));
        assert!(!second.follows(None), "what came before is not known");
        assert!(!second.follows(Some(&other)), "of another history");
        assert!(!next(Some(&second), 9).follows(Some(&first)), "one is missing");
        assert!(other.replaces(&first) && !first.replaces(&first) && !second.replaces(&first));
        assert!(first.replaces(&second), "it went back");
        let third = next(Some(&second), 9);
        assert!(third.follows(Some(&second)) && !second.follows(Some(&third)));
    }

    #[test]
    fn a_head_of_the_first_format_is_followed() {
        let old = Head::read(at(3), br#"{"v":1,"batches":41}"#).unwrap();
        assert!(next(Some(&old), 4).follows(Some(&old)));
        let older = Head::read(at(2), br#"{"v":1,"batches":40}"#).unwrap();
        assert!(old.follows(Some(&older)));
        let newer = Head::read(at(3), br#"{"v":3,"batches":41}"#).unwrap_err();
        assert!(std::error::Error::source(&newer).unwrap().to_string().contains("has format 3"), "{newer:?}");
    }
}
