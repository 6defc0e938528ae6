//! [`EventLog`]: the latest events, for readers that resume.

use std::collections::VecDeque;

use super::events::{Event, EventKind};
use crate::store::Revision;

/// The latest events, numbered from 1, a bounded number of them.
#[derive(Debug)]
pub(super) struct EventLog {
    events: VecDeque<Event>,
    kept: usize,
    /// Number of the last event ever pushed.
    last: u64,
    /// Every event after this revision is kept.
    complete_after: Revision,
}

impl EventLog {
    pub(super) fn new(kept: usize) -> Self {
        Self { events: VecDeque::new(), kept: kept.max(1), last: 0, complete_after: Revision::ZERO }
    }

    pub(super) fn push(&mut self, revision: Revision, kind: EventKind) {
        if self.events.len() == self.kept
            && let Some(oldest) = self.events.pop_front()
        {
            self.complete_after = oldest.revision;
        }
        self.events.push_back(Event { revision, kind });
        self.last += 1;
    }

    /// Forgets everything: the state was replaced at `revision`. Readers learn that they missed something,
    /// unless there was nothing to miss.
    pub(super) fn restart(&mut self, revision: Revision) {
        self.events.clear();
        if self.last > 0 {
            self.last += 1;
        }
        self.complete_after = revision;
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn after(&self, number: u64, max: usize) -> Result<Vec<Event>, u64> {
        let (first, next) = (self.last - self.events.len() as u64 + 1, number.saturating_add(1));
        if next < first {
            return Err(first);
        }
        let skip = usize::try_from(next - first).unwrap_or(usize::MAX);
        Ok(self.events.iter().skip(skip).take(max).cloned().collect())
    }

    pub(super) fn number_at(&self, revision: Revision) -> Result<u64, Revision> {
        if revision < self.complete_after {
            return Err(self.complete_after);
        }
        let later = self.events.iter().rev().take_while(|event| event.revision > revision).count();
        Ok(self.last - later as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeId;

    fn removed(number: u64) -> EventKind {
        EventKind::NodeRemoved(NodeId::new(format!("n{number}")).unwrap())
    }

    #[test]
    fn a_reader_resumes_after_a_revision_without_gap_or_repetition() {
        let mut log = EventLog::new(4);
        for revision in [1, 1, 2, 3, 5, 5] {
            log.push(Revision(revision), removed(revision));
        }
        let revisions = |from: u64| -> Vec<u64> {
            let number = log.number_at(Revision(from)).unwrap();
            log.after(number, 10).unwrap().iter().map(|event| event.revision.0).collect()
        };
        assert_eq!(revisions(2), [3, 5, 5]);
        assert_eq!(revisions(4), [5, 5]);
        assert_eq!(revisions(5), [] as [u64; 0]);
        assert_eq!(log.number_at(Revision(0)), Err(Revision(1)), "two events of revision 1 are gone");
        assert_eq!(revisions(1), [2, 3, 5, 5]);
    }

    #[test]
    fn a_reader_that_missed_something_learns_it() {
        let mut log = EventLog::new(2);
        (1..=5).for_each(|number| log.push(Revision(number), removed(number)));
        assert_eq!(log.after(2, 10), Err(4));
        assert_eq!(log.after(3, 10).unwrap().len(), 2);
        let read_everything = log.last();
        log.restart(Revision(9));
        assert!(log.after(read_everything, 10).is_err(), "the state was replaced under the reader");
        assert_eq!(log.number_at(Revision(8)), Err(Revision(9)));
    }
}
