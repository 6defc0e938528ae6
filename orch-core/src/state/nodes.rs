//! Nodes with what their tasks hold, kept in order of ids so that a scheduler sees the same list everywhere.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    model::{Held, NodeId, NodeRecord, TaskId},
    scheduler::NodeView,
};

use super::TaskRecord;

/// The nodes of a cluster. `views[i].held` is the sum of what the tasks in `tasks[i]` ask for.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    views: Vec<NodeView>,
    tasks: Vec<BTreeSet<TaskId>>,
}

impl Nodes {
    pub(super) fn views(&self) -> &[NodeView] {
        &self.views
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&NodeView> {
        self.find(node).ok().map(|at| &self.views[at])
    }

    pub(super) fn tasks_of(&self, node: &NodeId) -> impl Iterator<Item = TaskId> + '_ {
        self.find(node).into_iter().flat_map(|at| self.tasks[at].iter().copied())
    }

    /// Adds the node or replaces what is known about it; what its tasks hold stays.
    pub(super) fn put(&mut self, record: Arc<NodeRecord>) -> Option<Arc<NodeRecord>> {
        match self.find(&record.spec.id) {
            Ok(at) => Some(std::mem::replace(&mut self.views[at].record, record)),
            Err(at) => {
                self.views.insert(at, NodeView { record, held: Held::default(), tasks: 0 });
                self.tasks.insert(at, BTreeSet::new());
                None
            }
        }
    }

    /// Removes the node, which must have no tasks.
    pub(super) fn delete(&mut self, node: &NodeId) -> Option<Arc<NodeRecord>> {
        let at = self.find(node).ok()?;
        let tasks = self.tasks.remove(at);
        assert!(tasks.is_empty(), "a node with tasks is never removed");
        Some(self.views.remove(at).record)
    }

    pub(super) fn take(&mut self, node: &NodeId, task: &TaskRecord) {
        let at = self.find(node).expect("tasks are placed on known nodes only");
        self.views[at].held.take(&task.spec.resources);
        self.views[at].tasks += 1;
        self.tasks[at].insert(task.id);
    }

    pub(super) fn release(&mut self, node: &NodeId, task: &TaskRecord) {
        let at = self.find(node).expect("tasks are placed on known nodes only");
        self.views[at].held.release(&task.spec.resources);
        self.views[at].tasks -= 1;
        self.tasks[at].remove(&task.id);
    }

    fn find(&self, node: &NodeId) -> Result<usize, usize> {
        self.views.binary_search_by(|view| view.id().cmp(node))
    }
}
