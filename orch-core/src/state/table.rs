//! [`TaskTable`]: records of tasks by id.

use std::{
    borrow::Borrow,
    collections::HashSet,
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::TaskRecord;
use crate::model::TaskId;

/// Records of tasks by the ids that they carry, so that no id is kept twice. Only looked up, or sorted before
/// iteration where replicas must agree.
#[derive(Debug, Default)]
pub(crate) struct TaskTable(HashSet<Entry>);

impl TaskTable {
    pub(crate) fn get(&self, id: TaskId) -> Option<&Arc<TaskRecord>> {
        self.0.get(&id).map(|entry| &entry.0)
    }

    /// Returns the record that was there before.
    pub(crate) fn insert(&mut self, record: Arc<TaskRecord>) -> Option<Arc<TaskRecord>> {
        self.0.replace(Entry(record)).map(|entry| entry.0)
    }

    pub(crate) fn remove(&mut self, id: TaskId) -> Option<Arc<TaskRecord>> {
        self.0.take(&id).map(|entry| entry.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<TaskRecord>> {
        self.0.iter().map(|entry| &entry.0)
    }
}

impl FromIterator<Arc<TaskRecord>> for TaskTable {
    fn from_iter<I: IntoIterator<Item = Arc<TaskRecord>>>(records: I) -> Self {
        Self(records.into_iter().map(Entry).collect())
    }
}

/// Equal and hashed as its id, which is what [`Borrow`] asks for.
#[derive(Debug)]
struct Entry(Arc<TaskRecord>);

impl Borrow<TaskId> for Entry {
    fn borrow(&self) -> &TaskId {
        &self.0.id
    }
}

impl Hash for Entry {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.id.hash(hasher);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Entry {}
