//! Tasks that workers were told to start, and what to make of a failure then.
//!
//! A worker whose update is lost, because the manager is away, finds the task listed again. It starts it a
//! second time, which fails as the name of its container is taken, and says that the task failed. So each
//! task that is listed is noted in the store. A failure without a start of a task that was listed in an
//! earlier incarnation of the server may be such a one.

use std::collections::BTreeSet;

use orch_core::{
    engine::{Observation, ObservationKind, TaskView},
    model::{AttemptId, NodeId},
};
use orch_net::http::shell::Problem;
use parking_lot::Mutex;

use super::Manager;

/// Note on a task that was listed.
const NOTE: &str = "its worker was told to start it";

/// The attempts that were listed for the first time in this incarnation, as long as they go on.
#[derive(Debug, Default)]
pub(super) struct Offers(Mutex<BTreeSet<AttemptId>>);

/// A task that is about to be listed, at a worker of theirs.
#[derive(Debug)]
pub(super) struct Offer {
    attempt: AttemptId,
    node: NodeId,
    /// It was noted before.
    noted: bool,
}

impl Offer {
    /// `None` for a task that is not at a worker of theirs.
    pub(super) fn of(app: &Manager, task: &TaskView) -> Option<Self> {
        let (attempt, node) = (task.record.current_attempt()?, task.record.node()?.clone());
        app.config.workers.contains(&node).then(|| Self { attempt, node, noted: was_noted(task) })
    }
}

impl Offers {
    /// Notes everything that is about to be listed, before a worker can know of it.
    pub(super) async fn note(app: &Manager, listed: &[Offer]) -> Result<(), Problem> {
        let is_current = |attempt: &AttemptId| {
            let task = app.orchestrator.get(attempt.task);
            task.is_some_and(|task| task.record.current_attempt() == Some(*attempt))
        };
        {
            let mut offers = app.offers.0.lock();
            offers.retain(is_current);
            offers.extend(listed.iter().filter(|offer| !offer.noted).map(|offer| offer.attempt));
        }
        for worker in &app.config.workers {
            let new = listed.iter().filter(|offer| offer.node == *worker && !offer.noted);
            let observation = |offer: &Offer| Observation {
                attempt: offer.attempt,
                kind: ObservationKind::Progress(NOTE.into()),
            };
            let observations: Vec<Observation> = new.map(observation).collect();
            if !observations.is_empty() {
                app.link.observe(&app.session(worker)?, observations).await?;
            }
        }
        Ok(())
    }

    /// Whether the task was listed in an earlier incarnation and nothing was reported of it since.
    pub(super) fn may_have_started(&self, task: &TaskView, attempt: AttemptId) -> bool {
        let offers = self.0.lock();
        was_noted(task) && !offers.contains(&attempt)
    }
}

fn was_noted(task: &TaskView) -> bool {
    task.observed.as_ref().and_then(|observed| observed.progress.as_deref()) == Some(NOTE)
}
