//! [`Tombstones`]: tombstones of attempts on their node. An answer of the control side may have been computed
//! before it knew of an end, so that an attempt is named after it has ended; it must not be started again.

use std::collections::{HashMap, VecDeque};

use crate::{
    model::{AttemptEnd, AttemptId},
    store::Revision,
};

/// Attempts that have ended here. A tombstone is kept at least until an answer was computed from a state that
/// has the end, and beyond that while it is among the newest.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    tombstones: HashMap<AttemptId, Tombstone>,
    /// Oldest first.
    order: VecDeque<AttemptId>,
    /// The latest state that an answer was computed from.
    confirmed: Revision,
}

#[derive(Debug)]
struct Tombstone {
    end: AttemptEnd,
    /// The control side has it from this revision on.
    known_at: Revision,
}

impl Tombstones {
    /// Tombstones that are kept though nothing needs them: a control side that was restored from a backup may
    /// name their attempts.
    const KEPT: usize = 4096;

    /// Notes an end that the control side has from `known_at` on.
    pub(super) fn note(&mut self, attempt: AttemptId, end: AttemptEnd, known_at: Revision) {
        if self.tombstones.insert(attempt, Tombstone { end, known_at }).is_none() {
            self.order.push_back(attempt);
        }
        self.prune();
    }

    /// An answer was computed from this state.
    pub(super) fn confirm(&mut self, revision: Revision) {
        self.confirmed = self.confirmed.max(revision);
        self.prune();
    }

    /// End of the attempt, if it has ended here.
    pub(super) fn get(&self, attempt: AttemptId) -> Option<&AttemptEnd> {
        self.tombstones.get(&attempt).map(|tombstone| &tombstone.end)
    }

    fn prune(&mut self) {
        while self.order.len() > Self::KEPT
            && let Some(oldest) = self.order.front()
            && self.tombstones.get(oldest).is_none_or(|tombstone| tombstone.known_at <= self.confirmed)
        {
            self.tombstones.remove(oldest);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::model::TaskId;

    #[test]
    fn a_tombstone_outlives_every_answer_that_may_not_know_of_it() {
        let attempt = |number: usize| AttemptId {
            task: TaskId::from_bytes((number as u128).to_be_bytes()),
            attempt: NonZeroU32::MIN,
        };
        let mut ended = Tombstones::default();
        for number in 0..Tombstones::KEPT + 10 {
            ended.note(attempt(number), AttemptEnd::Stopped, Revision(number as u64 + 1));
        }
        assert!(ended.get(attempt(0)).is_some(), "no answer has confirmed any");
        ended.confirm(Revision(5));
        assert!(ended.get(attempt(4)).is_none() && ended.get(attempt(5)).is_some());
        ended.confirm(Revision(1000));
        assert!(ended.get(attempt(9)).is_none() && ended.get(attempt(10)).is_some(), "the newest are kept");
    }
}
