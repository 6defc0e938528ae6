//! Nodes with the resources that their tasks hold, in order of ids so that a scheduler sees the same list
//! everywhere.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    model::{Held, NodeId, NodeRecord, Scheduling, TaskId},
    scheduler::NodeView,
};

use super::TaskRecord;

/// Nodes of a cluster. `views[i].held` is the sum of the requests of the tasks in `tasks[i]`.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    views: Vec<NodeView>,
    tasks: Vec<BTreeSet<TaskId>>,
    /// Index of each node in the two lists, or the index it had before others were added or removed. Every
    /// command looks it up, and a search through the ids would touch memory all over.
    places: HashMap<NodeId, usize>,
    /// Number of additions and removals since all indexes were exact.
    moved: usize,
    /// Draining nodes.
    draining: BTreeSet<NodeId>,
}

impl Nodes {
    pub(super) fn views(&self) -> &[NodeView] {
        &self.views
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&NodeView> {
        self.place(node).map(|at| &self.views[at])
    }

    pub(super) fn tasks_of(&self, node: &NodeId) -> impl Iterator<Item = TaskId> + '_ {
        self.place(node).into_iter().flat_map(|at| self.tasks[at].iter().copied())
    }

    /// Adds the node or replaces its record; the resources that its tasks hold stay.
    pub(super) fn put(&mut self, record: Arc<NodeRecord>) -> Option<Arc<NodeRecord>> {
        match record.scheduling {
            Scheduling::Draining { .. } => drop(self.draining.insert(record.spec.id.clone())),
            Scheduling::Open | Scheduling::Cordoned => drop(self.draining.remove(&record.spec.id)),
        }
        if let Some(at) = self.place(&record.spec.id) {
            return Some(std::mem::replace(&mut self.views[at].record, record));
        }
        let at = self.views.partition_point(|view| *view.id() < record.spec.id);
        self.places.insert(record.spec.id.clone(), at);
        self.views.insert(at, NodeView { record, held: Held::default(), tasks: 0 });
        self.tasks.insert(at, BTreeSet::new());
        self.note_move(at);
        None
    }

    /// Removes the node, which must have no tasks.
    pub(super) fn delete(&mut self, node: &NodeId) -> Option<Arc<NodeRecord>> {
        let at = self.place(node)?;
        let tasks = self.tasks.remove(at);
        assert!(tasks.is_empty(), "a node with tasks is never removed");
        let removed = self.views.remove(at).record;
        self.places.remove(node);
        self.draining.remove(node);
        self.note_move(at);
        Some(removed)
    }

    pub(super) fn take(&mut self, node: &NodeId, task: &TaskRecord) {
        let at = self.place(node).expect("tasks are placed on known nodes only");
        self.views[at].held.take(&task.spec.resources);
        self.views[at].tasks += 1;
        self.tasks[at].insert(task.id);
    }

    pub(super) fn release(&mut self, node: &NodeId, task: &TaskRecord) {
        let at = self.place(node).expect("tasks are placed on known nodes only");
        self.views[at].held.release(&task.spec.resources);
        self.views[at].tasks -= 1;
        self.tasks[at].remove(&task.id);
    }

    /// Draining nodes, in order of ids.
    pub(super) fn draining(&self) -> impl Iterator<Item = &NodeView> {
        self.draining.iter().filter_map(|node| self.get(node))
    }

    fn place(&self, node: &NodeId) -> Option<usize> {
        let at = *self.places.get(node)?;
        match self.views.get(at) {
            Some(view) if view.id() == node => Some(at),
            _ => self.views.binary_search_by(|view| view.id().cmp(node)).ok(),
        }
    }

    /// Notes that the nodes from `at` on have moved. Their indexes are recomputed when enough additions and
    /// removals have accumulated to pay for it.
    fn note_move(&mut self, at: usize) {
        if at == self.views.len().saturating_sub(1) && self.moved == 0 {
            return;
        }
        self.moved += 1;
        if self.moved * 8 < self.views.len() {
            return;
        }
        self.moved = 0;
        for (at, view) in self.views.iter().enumerate() {
            self.places.insert(view.id().clone(), at);
        }
    }
}
