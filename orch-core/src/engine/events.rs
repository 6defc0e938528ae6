//! What happens, in order, for whoever wants to follow.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::watch;

use super::{error::Error, link::Seen, view::View};
use crate::{
    model::{AttemptId, NodeId, NodeRecord, TaskId},
    state::TaskRecord,
    store::Revision,
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The position of the decision, or of the last decision before an observation. Several events may share one.
    pub revision: Revision,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// The task is like this now.
    Task(Arc<TaskRecord>),
    /// The task was forgotten.
    TaskForgotten(TaskId),
    /// The node is like this now.
    Node(Arc<NodeRecord>),
    /// The node was removed.
    NodeRemoved(NodeId),
    /// An agent saw something of an attempt. Not kept as long as decisions, and not repeated after a restart.
    Observed {
        /// Which attempt.
        attempt: AttemptId,
        /// What it saw.
        seen: Seen,
    },
}

/// Events in order. Dropping it ends the subscription.
#[derive(Debug)]
pub struct EventStream {
    view: Arc<View>,
    changed: watch::Receiver<u64>,
    number: u64,
    ready: VecDeque<Event>,
}

impl EventStream {
    /// Events that come after the event with this number.
    pub(super) fn after(view: Arc<View>, number: u64) -> Self {
        let changed = view.events.subscribe();
        Self { view, changed, number, ready: VecDeque::new() }
    }

    /// How many events of this orchestrator's life come before the one that [`EventStream::next`] gives next. Worth
    /// something to [`Orchestrator::events_at`](super::Orchestrator::events_at) of the same orchestrator only.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.number - self.ready.len() as u64
    }

    /// The next event. Waits for it; `None` when the orchestrator is gone. Cancel safe.
    ///
    /// # Errors
    /// [`Error::EventsCompacted`] when the reader was too slow and missed events. List what there is, then start anew.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        const READ_AHEAD: usize = 256;
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            self.changed.borrow_and_update();
            match self.view.events_after(self.number, READ_AHEAD) {
                Ok(events) if events.is_empty() && self.view.is_closed() => return None,
                Ok(events) if events.is_empty() => self.changed.changed().await.ok()?,
                Ok(events) => {
                    self.number += events.len() as u64;
                    self.ready.extend(events);
                }
                Err(_) => {
                    self.number = self.view.last_event();
                    return Some(Err(Error::EventsCompacted { oldest: self.view.revision() }));
                }
            }
        }
    }
}

/// The latest events, numbered from 1, a bounded number of them.
#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<Event>,
    kept: usize,
    /// Number of the last event ever pushed.
    last: u64,
    /// Every event after this revision is kept.
    complete_after: Revision,
}

impl Ring {
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

    /// Forgets everything: the state was replaced at `revision`. Readers learn that they missed something, unless there
    /// was nothing to miss.
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

    fn removed(number: u64) -> EventKind {
        EventKind::NodeRemoved(NodeId::new(format!("n{number}")).unwrap())
    }

    #[test]
    fn a_reader_resumes_after_a_revision_without_gap_or_repetition() {
        let mut ring = Ring::new(4);
        for revision in [1, 1, 2, 3, 5, 5] {
            ring.push(Revision(revision), removed(revision));
        }
        let revisions = |from: u64| -> Vec<u64> {
            let number = ring.number_at(Revision(from)).unwrap();
            ring.after(number, 10).unwrap().iter().map(|event| event.revision.0).collect()
        };
        assert_eq!(revisions(2), [3, 5, 5]);
        assert_eq!(revisions(4), [5, 5]);
        assert_eq!(revisions(5), [] as [u64; 0]);
        assert_eq!(ring.number_at(Revision(0)), Err(Revision(1)), "two events of revision 1 are gone");
        assert_eq!(revisions(1), [2, 3, 5, 5]);
    }

    #[test]
    fn a_reader_that_missed_something_learns_it() {
        let mut ring = Ring::new(2);
        (1..=5).for_each(|number| ring.push(Revision(number), removed(number)));
        assert_eq!(ring.after(2, 10), Err(4));
        assert_eq!(ring.after(3, 10).unwrap().len(), 2);
        let read_everything = ring.last();
        ring.restart(Revision(9));
        assert!(ring.after(read_everything, 10).is_err(), "the state was replaced under the reader");
        assert_eq!(ring.number_at(Revision(8)), Err(Revision(9)));
    }
}
