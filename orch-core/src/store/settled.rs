//! Transactions that were settled as not applied: their requests are refused when they arrive late.

use std::collections::VecDeque;

use super::{CommitId, StoreError};

/// The most ids that are remembered, the newest. A request that arrives after so many others were settled is
/// one that nothing else has stopped for minutes.
const IDS_MAX: usize = 1024;

/// Ids of transactions that will never be applied. For backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettledIds(VecDeque<CommitId>);

impl SettledIds {
    /// Remembers one more, and forgets the oldest beyond 1,024.
    pub fn insert(&mut self, id: CommitId) {
        if self.0.contains(&id) {
            return;
        }
        if self.0.len() == IDS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(id);
    }

    /// Refuses a transaction that was settled.
    ///
    /// # Errors
    /// [`StoreError::Settled`].
    pub fn check(&self, id: Option<CommitId>) -> Result<(), StoreError> {
        match id.filter(|id| self.0.contains(id)) {
            Some(id) => Err(StoreError::Settled { id }),
            None => Ok(()),
        }
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = CommitId> {
        self.0.iter().copied()
    }
}

impl FromIterator<CommitId> for SettledIds {
    fn from_iter<T: IntoIterator<Item = CommitId>>(ids: T) -> Self {
        let mut settled = Self::default();
        ids.into_iter().for_each(|id| settled.insert(id));
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_refused_and_the_number_is_bounded() {
        let mut ids: SettledIds = (1..=1025).map(CommitId).collect();
        ids.insert(CommitId(1025));
        assert_eq!(ids.iter().count(), 1024);
        assert!(ids.check(Some(CommitId(1))).is_ok() && ids.check(None).is_ok());
        assert!(matches!(ids.check(Some(CommitId(2))), Err(StoreError::Settled { id: CommitId(2) })));
    }
}
