//! Positions of commits: a revision orders them, an incarnation tells which history it belongs to.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
};

use serde::{Deserialize, Serialize};

/// The number of a batch of changes in a total order. Zero is before the first change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The state before anything happened.
    pub const ZERO: Self = Self(0);

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of the history that a revision belongs to. A store that comes back older, from a backup or on a
/// standby that was behind, gives out the same revisions again; two different commits never have the same
/// revision and the same incarnation.
///
/// A backend draws one for each commit where it has a place for it beside each record, and then it is the
/// commit's [`CommitId`]; or one for each history, and draws a new one when it finds that its history went
/// back. Zero is that of commits from before incarnations were written down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Position of a commit: what guards compare and watches resume from.
///
/// Positions of one history are in the order of their revisions. Across histories there is no order, so
/// that this type has none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// Its number in the order.
    pub revision: Revision,
    /// Identity of the order.
    pub incarnation: Incarnation,
}

impl Position {
    /// The state before anything happened, with which every history begins.
    pub const ZERO: Self = Self { revision: Revision::ZERO, incarnation: Incarnation(0) };

    /// The position with these two parts.
    #[must_use]
    pub const fn new(revision: Revision, incarnation: Incarnation) -> Self {
        Self { revision, incarnation }
    }

    /// That of the commit `id` where each commit is its own incarnation.
    #[must_use]
    pub const fn of(revision: Revision, id: CommitId) -> Self {
        Self { revision, incarnation: Incarnation(id.0) }
    }
}

/// The revision, for people.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.revision.fmt(f)
    }
}

/// Name of a transaction, drawn before it is sent, by which its outcome can be asked for when the answer was
/// lost ([`StateStore::outcome`](super::StateStore::outcome)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitId(pub u64);

impl CommitId {
    /// A random one. Not a secret: it is unlikely to come twice, and may be guessed.
    #[must_use]
    pub fn random() -> Self {
        // Each state has keys of its own.
        Self::drawn(RandomState::new().hash_one(()).into())
    }

    /// One from a number that was drawn elsewhere.
    #[must_use]
    pub fn drawn(number: u128) -> Self {
        let half = u64::try_from(number & u128::from(u64::MAX)).unwrap_or_default();
        // Zero is left to commits that have none.
        Self(half.max(1))
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_none_is_zero() {
        let ids: std::collections::BTreeSet<_> = (0..1000).map(|_| CommitId::random()).collect();
        assert!(ids.len() == 1000 && !ids.contains(&CommitId(0)));
    }
}
