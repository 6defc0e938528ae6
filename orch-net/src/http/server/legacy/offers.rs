//! Which tasks legacy workers were told to start, and what to make of a failure then.
//!
//! A worker whose update is lost, because the manager is away, finds the task listed again. It starts it a second time, which
//! fails as the name of its container is taken, and says that the task failed. So each task that is listed is noted in the
//! store. A failure without a start of a task that was listed in an earlier life of the server may be such a one.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use orch_core::{
    engine::{Observation, Seen, TaskView},
    model::{AttemptId, NodeId},
};

use super::routes::session;
use crate::http::server::{app::Shared, problem::Problem};

/// What is noted of a task that was listed.
const TOLD: &str = "its worker was told to start it";

/// The attempts that were listed for the first time in this life, as long as they are listed.
#[derive(Debug, Default)]
pub(in super::super) struct Offers(Mutex<BTreeSet<AttemptId>>);

impl Offers {
    /// Notes what is about to be listed, before a worker can know of it.
    pub(super) async fn note(app: &Shared, listed: &[TaskView]) -> Result<(), Problem> {
        let of_worker = |task: &TaskView| {
            let (attempt, node) = (task.record.current_attempt()?, task.record.node()?.clone());
            app.legacy.workers.contains(&node).then_some((attempt, node, was_told(task)))
        };
        let listed: Vec<(AttemptId, NodeId, bool)> = listed.iter().filter_map(of_worker).collect();
        let there: BTreeSet<AttemptId> = listed.iter().map(|(attempt, ..)| *attempt).collect();
        {
            let mut offers = app.offers.0.lock().unwrap_or_else(PoisonError::into_inner);
            offers.retain(|attempt| there.contains(attempt));
            offers.extend(listed.iter().filter(|(_, _, told)| !told).map(|(attempt, ..)| *attempt));
        }
        for worker in &app.legacy.workers {
            let new = listed.iter().filter(|(_, node, told)| node == worker && !told);
            let observation = |attempt| Observation { attempt, seen: Seen::Progress(TOLD.into()) };
            let observations: Vec<Observation> = new.map(|(attempt, ..)| observation(*attempt)).collect();
            if !observations.is_empty() {
                app.link.observe(&session(app, worker)?, observations).await?;
            }
        }
        Ok(())
    }

    /// Whether the task was listed in an earlier life and nothing was heard of it since.
    pub(super) fn may_have_started(&self, task: &TaskView, attempt: AttemptId) -> bool {
        let offers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        was_told(task) && !offers.contains(&attempt)
    }
}

fn was_told(task: &TaskView) -> bool {
    task.observed.as_ref().and_then(|observed| observed.progress.as_deref()) == Some(TOLD)
}
