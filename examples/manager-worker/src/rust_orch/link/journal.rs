//! Journal of a worker's tasks. Their manager forgets which attempt runs where, and stops naming a task once
//! it runs; so this is what keeps a restarted worker from starting it twice, and from taking it for
//! superseded.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use orch_core::{
    model::{Held, SharedSpec, TaskId, Timestamp},
    store::{CommitError, Key, StateStore, StateStoreExt as _, StoreError, Txn, Write},
};
use serde::{Deserialize, Serialize};

use crate::rust_orch::wire::Status;

/// Tasks that have ended and are still remembered, the newest.
const OVER_MAX: usize = 10_000;
const PREFIX: &str = "legacy/tasks/";
const PAGE: usize = 1000;

/// Progress of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum TaskState {
    /// It is the agent's.
    Taken {
        spec: SharedSpec,
        /// The engine's name for it, once it was seen running.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        handle: Option<String>,
    },
    /// It ended with this status, which the manager refused.
    Ended {
        status: Status,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        handle: Option<String>,
        at: Timestamp,
    },
    /// The manager acknowledged that it ended so, or does not know it any more.
    Over { status: Status, at: Timestamp },
}

impl TaskState {
    pub(super) fn over(status: Status) -> Self {
        Self::Over { status, at: Timestamp::now() }
    }

    /// Since when it is no longer the agent's.
    fn since(&self) -> Option<Timestamp> {
        match self {
            Self::Taken { .. } => None,
            Self::Ended { at, .. } | Self::Over { at, .. } => Some(*at),
        }
    }
}

/// The form of a record.
#[derive(Serialize, Deserialize)]
struct Record {
    v: u32,
    #[serde(flatten)]
    state: TaskState,
}

const VERSION: u32 = 1;

/// All tasks, in memory as they are in the store.
#[derive(Debug)]
pub(super) struct Journal {
    store: Arc<dyn StateStore>,
    tasks: BTreeMap<TaskId, TaskState>,
    /// Those that have ended, the oldest first.
    over: BTreeSet<(Timestamp, TaskId)>,
}

impl Journal {
    pub(super) async fn open(store: Arc<dyn StateStore>) -> Result<Self, StoreError> {
        let mut journal = Self { store, tasks: BTreeMap::new(), over: BTreeSet::new() };
        let store = Arc::clone(&journal.store);
        let mut pages = store.pages(PREFIX, PAGE);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                let (task, state) = read(entry.key.as_str(), &entry.value)
                    .map_err(|why| StoreError::Corrupt(format!("{}: {why}", entry.key)))?;
                journal.absorb(task, state);
            }
        }
        Ok(journal)
    }

    pub(super) fn get(&self, task: TaskId) -> Option<&TaskState> {
        self.tasks.get(&task)
    }

    /// The tasks that are the agent's.
    pub(super) fn taken(&self) -> impl Iterator<Item = (TaskId, &SharedSpec, Option<&str>)> {
        self.tasks.iter().filter_map(|(task, state)| match state {
            TaskState::Taken { spec, handle } => Some((*task, spec, handle.as_deref())),
            TaskState::Ended { .. } | TaskState::Over { .. } => None,
        })
    }

    /// Tasks whose end the manager refused.
    pub(super) fn refused(&self) -> impl Iterator<Item = TaskId> {
        self.tasks.iter().filter(|(_, state)| matches!(state, TaskState::Ended { .. })).map(|(task, _)| *task)
    }

    /// Sum of what they hold.
    pub(super) fn held(&self) -> Held {
        let mut held = Held::default();
        self.taken().for_each(|(_, spec, _)| held.take(&spec.resources));
        held
    }

    /// Returns when it is durable. What is long over is forgotten.
    pub(super) async fn put(
        &mut self,
        states: impl IntoIterator<Item = (TaskId, TaskState)>,
    ) -> Result<(), CommitError> {
        let states: Vec<(TaskId, TaskState)> = states.into_iter().collect();
        let mut writes: Vec<Write> =
            states.iter().map(|(task, state)| Write::put(key(*task), write(state))).collect();
        let mut forgotten: Vec<_> =
            self.over.iter().copied().take((self.over.len() + 1).saturating_sub(OVER_MAX)).collect();
        forgotten.retain(|(_, task)| states.iter().all(|(written, _)| written != task));
        writes.extend(forgotten.iter().map(|(_, task)| Write::delete(key(*task))));
        self.store.commit(Txn::of(writes)).await?;
        for entry in forgotten {
            self.over.remove(&entry);
            self.tasks.remove(&entry.1);
        }
        for (task, state) in states {
            self.absorb(task, state);
        }
        Ok(())
    }

    fn absorb(&mut self, task: TaskId, state: TaskState) {
        let since = state.since();
        if let Some(before) = self.tasks.insert(task, state).and_then(|state| state.since()) {
            self.over.remove(&(before, task));
        }
        self.over.extend(since.map(|at| (at, task)));
    }
}

fn key(task: TaskId) -> Key {
    Key::new(format!("{PREFIX}{task}")).expect("a task id is a part of a key")
}

fn write(state: &TaskState) -> Vec<u8> {
    serde_json::to_vec(&Record { v: VERSION, state: state.clone() }).expect("plain data has a JSON form")
}

fn read(key: &str, value: &[u8]) -> Result<(TaskId, TaskState), String> {
    let task = key.trim_start_matches(PREFIX).parse().map_err(|error| format!("{error}"))?;
    let Record { v, state } = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    match v {
        VERSION => Ok((task, state)),
        newer => Err(format!("version {newer} of the record is not known here")),
    }
}

#[cfg(test)]
mod tests {
    use orch_core::{model::TaskSpec, store::MemoryStore};

    use super::*;

    #[test]
    fn the_form_of_a_record_stays() {
        let (handle, at) = (|| Some("c".to_owned()), Timestamp::from_millis(7));
        let spec = TaskSpec::image("t", "i");
        let spec_json = serde_json::to_string(&spec).unwrap();
        let spec = SharedSpec::from(spec);
        for (state, form) in [
            (
                TaskState::Taken { spec: spec.clone(), handle: None },
                format!(r#"{{"v":1,"state":"taken","spec":{spec_json}}}"#),
            ),
            (
                TaskState::Taken { spec, handle: handle() },
                format!(r#"{{"v":1,"state":"taken","spec":{spec_json},"handle":"c"}}"#),
            ),
            (
                TaskState::Ended { status: Status::Failed, handle: handle(), at },
                r#"{"v":1,"state":"ended","status":"Failed","handle":"c","at":7}"#.into(),
            ),
            (
                TaskState::Over { status: Status::Complete, at },
                r#"{"v":1,"state":"over","status":"Complete","at":7}"#.into(),
            ),
        ] {
            let task = TaskId::from_bytes([1; 16]);
            assert_eq!(String::from_utf8(write(&state)).unwrap(), form);
            assert_eq!(read(key(task).as_str(), form.as_bytes()), Ok((task, state)));
        }
        assert_eq!(
            key(TaskId::from_bytes([1; 16])).as_str(),
            "legacy/tasks/01010101-0101-0101-0101-010101010101"
        );
    }

    #[tokio::test]
    async fn of_what_is_over_the_oldest_is_forgotten() {
        let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
        let mut journal = Journal::open(store.clone()).await.unwrap();
        let task = |number: usize| TaskId::from_bytes((number as u128).to_be_bytes());
        let taken = TaskState::Taken { spec: TaskSpec::image("t", "i").into(), handle: None };
        journal.put([(TaskId::generate(), taken)]).await.unwrap();
        for number in 0..=OVER_MAX {
            let at = Timestamp::from_millis(number as u64);
            let over = TaskState::Over { status: Status::Complete, at };
            journal.put([(task(number), over)]).await.unwrap();
        }
        for journal in [&journal, &Journal::open(store).await.unwrap()] {
            assert_eq!((journal.tasks.len(), journal.over.len()), (OVER_MAX + 1, OVER_MAX));
            assert!(journal.get(task(0)).is_none() && journal.get(task(1)).is_some());
        }
    }

    #[tokio::test]
    async fn what_is_written_anew_is_not_forgotten_for_being_the_oldest() {
        let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
        let mut journal = Journal::open(store.clone()).await.unwrap();
        let (status, task) = (Status::Complete, TaskId::generate());
        let ended = TaskState::Ended { status, handle: None, at: Timestamp::from_millis(0) };
        let others = (1..OVER_MAX).map(|_| (TaskId::generate(), TaskState::over(status)));
        journal.put(others.chain([(task, ended)])).await.unwrap();
        assert!(journal.refused().eq([task]));
        journal.put([(task, TaskState::over(status))]).await.unwrap();
        for journal in [&journal, &Journal::open(store).await.unwrap()] {
            assert_eq!((journal.tasks.len(), journal.over.len()), (OVER_MAX, OVER_MAX));
            assert!(
                matches!(journal.get(task), Some(TaskState::Over { .. }))
                    && journal.refused().next().is_none()
            );
        }
    }
}
