//! [`Observations`]: facts that agents saw, which nobody has to agree on. They go past consensus, into the
//! view, the store below `observed/attempts/`, and the place of output.

use std::sync::Arc;

use tracing::debug;

use super::{
    error::{Error, Result},
    lost_output::{self, Extent, LostOutput},
    tasks::Observed,
    view::{Stale, View},
};
use crate::{
    engine::link::{Observation, ObservationKind},
    model::{AttemptId, NodeId, Timestamp},
    output::{NewOutput, OutputError, OutputStore},
    store::{Key, StateStore, StateStoreExt as _, StoreError, Write},
};

const PREFIX: &str = "observed/attempts/";

/// The way of observations into the view, the store and the place of output, and out again once they are
/// stale.
#[derive(Debug)]
pub(super) struct Observations {
    store: Arc<dyn StateStore>,
    output: Arc<dyn OutputStore>,
    lost: Arc<LostOutput>,
    view: Arc<View>,
}

impl Observations {
    pub(super) fn new(
        store: Arc<dyn StateStore>,
        output: Arc<dyn OutputStore>,
        lost: Arc<LostOutput>,
        view: Arc<View>,
    ) -> Self {
        Self { store, output, lost, view }
    }

    /// Applies what `node` saw of attempts that it holds, and passes over the rest. Returns once it is
    /// durable, or output that cannot be kept is given up. After an error any part may be durable; applying
    /// the same again is right.
    pub(super) async fn apply(
        &self,
        node: &NodeId,
        time: Timestamp,
        observations: Vec<Observation>,
    ) -> Result<()> {
        let (view, mut pieces, mut writes) = (&self.view, Vec::new(), Vec::new());
        let time = Some(time);
        for Observation { attempt, kind } in observations {
            let kind = kind.clipped();
            if let ObservationKind::Output { offset, data, .. } = &kind
                && offset.checked_add(data.len() as u64).is_none()
            {
                // Nobody wrote so much.
                continue;
            }
            if !view.observe(node, attempt, &kind) {
                continue;
            }
            match kind {
                ObservationKind::Output { stream, offset, data } => {
                    let limit = view.task(attempt.task).map_or(0, |task| task.record.spec.output_limit_bytes);
                    pieces.push(NewOutput { attempt, limit, stream, offset, time, data });
                }
                ObservationKind::Running { .. }
                | ObservationKind::Health(_)
                | ObservationKind::Progress(_) => {
                    if let Some(observed) = view.observed(attempt.task) {
                        writes.push(Write::put(key_of(attempt), observed.to_record()));
                    }
                }
                ObservationKind::Usage(_) => {}
            }
        }
        let kept = async { self.keep(node, pieces).await.map_err(Error::from) };
        let written = async { self.store.write_all(writes).await.map_err(Error::from) };
        // Neither waits for the other, and each may be done again.
        let (kept, written) = tokio::join!(kept, written);
        kept.and(written)
    }

    async fn keep(&self, node: &NodeId, chunks: Vec<NewOutput>) -> std::result::Result<(), OutputError> {
        if chunks.is_empty() {
            return Ok(());
        }
        let extents: Vec<Extent> = chunks.iter().map(Extent::from).collect();
        match self.output.append(chunks).await {
            Ok(()) => {
                self.lost.kept(node);
                Ok(())
            }
            Err(error) => self.lost.refused(node, &extents, error).await,
        }
    }

    /// Deletes what is stale. Anything that cannot be deleted is found again at the next start.
    pub(super) async fn sweep(&self) {
        const MOST: usize = 500;
        let (mut writes, mut tasks) = (Vec::new(), Vec::new());
        for stale in self.view.take_stale() {
            match stale {
                Stale::Attempt(attempt) => writes.push(Write::delete(key_of(attempt))),
                Stale::Task(task) => tasks.push(task),
            }
        }
        if let Err(error) = self.lost.forget(&tasks, |node| self.view.node(node).is_some()).await {
            debug!(%error, "losses of output of forgotten tasks may be remembered until the next start");
        }
        for some in tasks.chunks(MOST) {
            if let Err(error) = self.output.forget(some).await {
                debug!(%error, "some output of forgotten tasks may stay until the next start");
            }
        }
        while !writes.is_empty() {
            let rest = writes.split_off(writes.len().min(MOST));
            if let Err(error) = self.store.write_all(writes).await {
                debug!(%error, "stale observations were not deleted");
            }
            writes = rest;
        }
    }
}

/// Reads what was observed before a restart into the view.
pub(super) async fn restore(store: &dyn StateStore, view: &View) -> Result<(), StoreError> {
    let mut pages = store.pages(PREFIX, 1024);
    while let Some(page) = pages.next().await? {
        for entry in &page.entries {
            let attempt = entry.key.as_str().strip_prefix(PREFIX).and_then(|id| id.parse().ok());
            if let (Some(attempt), Some(observed)) = (attempt, Observed::from_record(&entry.value)) {
                view.restore_observed(attempt, observed);
            }
        }
    }
    Ok(())
}

/// True if the store of decisions belongs to one process and holds observations of an earlier incarnation,
/// and is another store than that of observations.
pub(super) async fn are_elsewhere(
    decisions: &dyn StateStore,
    observed: &dyn StateStore,
) -> Result<bool, StoreError> {
    if decisions.capabilities().shared || decisions.scan("observed/", None, 1).await?.entries.is_empty() {
        return Ok(false);
    }
    // Two handles may be of one store.
    let probe = Key::new("observed/probe").expect("a valid key");
    observed.write_all(vec![Write::put(probe.clone(), "")]).await?;
    let same = decisions.get(&probe).await?.is_some();
    observed.write_all(vec![Write::delete(probe)]).await?;
    Ok(!same)
}

/// Moves what `store` holds of observations of attempts, and of lost output, to another store. Stopped at any
/// point, it can be done again.
pub(super) async fn move_out(store: &dyn StateStore, to: &dyn StateStore) -> Result<(), StoreError> {
    for prefix in [PREFIX, lost_output::PREFIX] {
        move_records(prefix, store, to).await?;
    }
    Ok(())
}

async fn move_records(prefix: &str, store: &dyn StateStore, to: &dyn StateStore) -> Result<(), StoreError> {
    const PAGE: usize = 256;
    loop {
        let page = store.scan(prefix, None, PAGE).await?;
        if page.entries.is_empty() {
            return Ok(());
        }
        let deleted = page.entries.iter().map(|entry| Write::delete(entry.key.clone())).collect();
        to.write_all(page.entries.into_iter().map(|entry| Write::put(entry.key, entry.value)).collect())
            .await?;
        store.write_all(deleted).await?;
    }
}

/// Key of what was observed of an attempt. Each has its own, so that forgetting one that has ended never
/// takes what is known of the one after it.
fn key_of(attempt: AttemptId) -> Key {
    Key::new(format!("{PREFIX}{attempt}")).expect("a valid key")
}
