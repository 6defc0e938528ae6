//! [`EventStream`]: one reader's way through the events.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::watch;

use super::{error::Error, events::Event, view::View};

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

    /// Number of events of this orchestrator that come before the one that [`EventStream::next`] gives next.
    /// Worth something to [`Orchestrator::events_at`](super::Orchestrator::events_at) of the same
    /// orchestrator only.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.number - self.ready.len() as u64
    }

    /// The next event. Waits for it; `None` when the orchestrator is gone. Cancel safe.
    ///
    /// # Errors
    /// [`Error::EventsCompacted`] when the reader was too slow and missed events. List what there is, then
    /// start anew.
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
