//! [`LostOutput`]: output that could not be kept. After a grace it is given up, so that it does not hold up
//! the ends of attempts, and what was lost is remembered below `observed/lost/`, so that readers are told.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::warn;

use crate::{
    model::{AttemptId, NodeId, TaskId},
    output::{NewOutput, OutputError},
    runtime::OutputStream,
    store::{Key, StateStore, StateStoreExt as _, StoreError, Write},
};

pub(super) const PREFIX: &str = "observed/lost/";

/// Streams of a task whose losses are remembered: those of the newest attempts.
const STREAMS_MAX: usize = 64;

/// Loss of one stream of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Loss {
    pub(super) attempt: NonZeroU32,
    pub(super) stream: OutputStream,
    /// Bytes that were given up. A part of them may have been kept all the same.
    pub(super) bytes: u64,
    /// Offset of the end of the last of them.
    pub(super) end: u64,
}

#[derive(Serialize, Deserialize)]
struct Record {
    v: u8,
    lost: Vec<Loss>,
}

/// Position of a chunk in its stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    attempt: AttemptId,
    stream: OutputStream,
    offset: u64,
    end: u64,
}

impl From<&NewOutput> for Extent {
    fn from(chunk: &NewOutput) -> Self {
        let NewOutput { attempt, stream, offset, ref data, .. } = *chunk;
        Self { attempt, stream, offset, end: offset.saturating_add(data.len() as u64) }
    }
}

/// Period in which nothing of a node could be kept.
#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Instant,
    last: Instant,
}

/// Grace of output that cannot be kept, and record of what was lost.
#[derive(Debug)]
pub(super) struct LostOutput {
    store: Arc<dyn StateStore>,
    grace: Duration,
    failing: Mutex<HashMap<NodeId, Failing>>,
    /// Tasks with a record. Locked while a record is changed.
    tasks: tokio::sync::Mutex<BTreeSet<TaskId>>,
}

impl LostOutput {
    pub(super) fn new(store: Arc<dyn StateStore>, grace: Duration) -> Self {
        Self { store, grace, failing: Mutex::default(), tasks: tokio::sync::Mutex::default() }
    }

    /// Output of a node was kept.
    pub(super) fn kept(&self, node: &NodeId) {
        self.failing.lock().remove(node);
    }

    /// Output of a node was not kept: returns the error as long as the node shall send it again. Once the
    /// grace is over, returns when the loss is remembered.
    pub(super) async fn refused(
        &self,
        node: &NodeId,
        chunks: &[Extent],
        error: OutputError,
    ) -> Result<(), OutputError> {
        if !self.is_over(node) {
            return Err(error);
        }
        warn!(error = &error as &dyn std::error::Error, %node, chunks = chunks.len(), "output is given up");
        let mut tasks = self.tasks.lock().await;
        for of_task in chunks.chunk_by(|a, b| a.attempt.task == b.attempt.task) {
            let task = of_task[0].attempt.task;
            let mut lost = self.of(task).await?;
            of_task.iter().for_each(|chunk| add(&mut lost, chunk));
            let record = serde_json::to_vec(&Record { v: 1, lost }).expect("plain data has a JSON form");
            tasks.insert(task);
            self.store.write_all(vec![Write::put(key_of(task), record)]).await?;
        }
        Ok(())
    }

    /// True once nothing of the node could be kept for as long as the grace.
    fn is_over(&self, node: &NodeId) -> bool {
        let now = Instant::now();
        let mut failing = self.failing.lock();
        let period = failing.entry(node.clone()).or_insert(Failing { since: now, last: now });
        // It sends again without a pause.
        if now - period.last > self.grace {
            period.since = now;
        }
        period.last = now;
        now - period.since >= self.grace
    }

    /// Losses of a task, in the order of its attempts.
    pub(super) async fn of(&self, task: TaskId) -> Result<Vec<Loss>, StoreError> {
        let record = self.store.get(&key_of(task)).await?;
        let record = record.and_then(|entry| serde_json::from_slice::<Record>(&entry.value).ok());
        Ok(record.map(|record| record.lost).unwrap_or_default())
    }

    /// Finds what earlier incarnations remembered, and forgets that of tasks which are gone.
    pub(super) async fn restore(&self, is_known: impl Fn(TaskId) -> bool) -> Result<(), StoreError> {
        let (mut known, mut gone) = (BTreeSet::new(), Vec::new());
        let mut pages = self.store.pages(PREFIX, 1024);
        while let Some(page) = pages.next().await? {
            for entry in page.entries {
                match entry.key.as_str().strip_prefix(PREFIX).and_then(|task| task.parse().ok()) {
                    Some(task) if is_known(task) => drop(known.insert(task)),
                    _ => gone.push(Write::delete(entry.key)),
                }
            }
        }
        self.tasks.lock().await.append(&mut known);
        self.store.write_all(gone).await
    }

    /// Forgets the losses of tasks that are gone, and nodes that are.
    pub(super) async fn forget(
        &self,
        gone: &[TaskId],
        is_known: impl Fn(&NodeId) -> bool,
    ) -> Result<(), StoreError> {
        self.failing.lock().retain(|node, _| is_known(node));
        let mut tasks = self.tasks.lock().await;
        let deleted = gone.iter().filter(|task| tasks.remove(task)).map(|task| Write::delete(key_of(*task)));
        self.store.write_all(deleted.collect()).await
    }
}

/// Adds what of a chunk was not given up before: the same chunk may come again.
fn add(lost: &mut Vec<Loss>, chunk: &Extent) {
    let (attempt, stream) = (chunk.attempt.attempt, chunk.stream);
    let at = lost.binary_search_by_key(&(attempt, stream), |loss| (loss.attempt, loss.stream));
    let at = at.unwrap_or_else(|at| {
        lost.insert(at, Loss { attempt, stream, bytes: 0, end: 0 });
        at
    });
    let loss = &mut lost[at];
    loss.bytes += chunk.end.saturating_sub(chunk.offset.max(loss.end));
    loss.end = loss.end.max(chunk.end);
    let beyond = lost.len().saturating_sub(STREAMS_MAX);
    lost.drain(..beyond);
}

fn key_of(task: TaskId) -> Key {
    Key::new(format!("{PREFIX}{task}")).expect("a valid key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    fn extent(task: TaskId, attempt: u32, offset: u64, end: u64) -> Extent {
        let attempt = AttemptId { task, attempt: NonZeroU32::new(attempt).unwrap() };
        Extent { attempt, stream: OutputStream::Stdout, offset, end }
    }

    fn full() -> OutputError {
        OutputError::Store(StoreError::Closed)
    }

    const GRACE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn output_is_given_up_when_nothing_could_be_kept_for_the_grace() {
        let lost = LostOutput::new(Arc::new(MemoryStore::default()), GRACE);
        let (node, task) = (NodeId::new("n").unwrap(), TaskId::generate());
        let refused = async || lost.refused(&node, &[extent(task, 1, 0, 5)], full()).await;
        refused().await.unwrap_err();
        tokio::time::advance(GRACE / 2).await;
        refused().await.unwrap_err();
        tokio::time::advance(GRACE / 2).await;
        refused().await.unwrap();
        lost.kept(&node);
        refused().await.unwrap_err();
        // The node did not send for a while: that is not the store's fault.
        tokio::time::advance(GRACE * 2).await;
        refused().await.unwrap_err();
    }

    #[tokio::test]
    async fn losses_are_counted_once_and_forgotten_with_their_task() {
        let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
        let lost = LostOutput::new(store.clone(), Duration::ZERO);
        let (node, task, other) = (NodeId::new("n").unwrap(), TaskId::generate(), TaskId::generate());
        let batch =
            [extent(task, 2, 5, 10), extent(task, 1, 0, 3), extent(other, 1, 0, 1), extent(task, 2, 8, 12)];
        for _ in 0..2 {
            lost.refused(&node, &batch, full()).await.unwrap();
        }
        let of = async |task| {
            let losses = lost.of(task).await.unwrap();
            losses.iter().map(|loss| (loss.attempt.get(), loss.bytes, loss.end)).collect::<Vec<_>>()
        };
        assert_eq!(of(task).await, [(1, 3, 3), (2, 7, 12)]);
        let next = LostOutput::new(store.clone(), GRACE);
        next.restore(|known| known == task).await.unwrap();
        assert_eq!(of(other).await, []);
        next.forget(&[task], |_| true).await.unwrap();
        assert!(store.scan(PREFIX, None, 10).await.unwrap().entries.is_empty());
    }

    #[test]
    fn losses_of_the_newest_attempts_are_remembered() {
        let (task, mut lost) = (TaskId::generate(), Vec::new());
        for attempt in 1..=100 {
            add(&mut lost, &extent(task, attempt, 0, 1));
        }
        assert_eq!(lost.len(), STREAMS_MAX);
        assert_eq!(lost.last().unwrap().attempt.get(), 100);
    }
}
