//! A [`Draft`]: the state overlaid with the records that one command touches. It knows which nodes gained
//! capacity and which tasks became eligible, and turns itself into changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Change, Clock, ClusterState, CommandRecord, Envelope, Outcome, Rejection, TaskRecord,
    queue::{Rank, rank},
};
use crate::{
    model::{Held, NodeId, NodeRecord, SharedSpec, SpecId, TaskId, Timestamp},
    scheduler::NodeView,
};

/// State overlaid with the changes of one command.
pub(super) struct Draft<'a> {
    pub(super) state: &'a ClusterState,
    pub(super) clock: Clock,
    pub(super) tasks: BTreeMap<TaskId, Arc<TaskRecord>>,
    pub(super) nodes: BTreeMap<NodeId, Option<Arc<NodeRecord>>>,
    /// Nodes whose record or load differs from the state's. Boxed, because a map's node holds a dozen of them
    /// and most commands touch one.
    pub(super) views: BTreeMap<NodeId, Box<NodeView>>,
    /// Nodes that gained capacity.
    pub(super) gained: BTreeSet<NodeId>,
    /// Tasks that became eligible.
    pub(super) fresh: BTreeSet<(Rank, TaskId)>,
    /// Specs of new tasks, with the number of tasks that have each.
    added: BTreeMap<SpecId, (SharedSpec, usize)>,
}

/// Maximum number of finished tasks that one command forgets, beyond those that it finishes: a bound that was
/// lowered is reached step by step.
const FORGOTTEN_AT_A_TIME: usize = 11_000;

impl<'a> Draft<'a> {
    pub(super) fn new(state: &'a ClusterState, now: Timestamp) -> Self {
        Self {
            state,
            clock: Clock { time: now, ..state.clock },
            tasks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            views: BTreeMap::new(),
            gained: BTreeSet::new(),
            fresh: BTreeSet::new(),
            added: BTreeMap::new(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.time
    }

    pub(super) fn known_task(&self, id: TaskId) -> Result<TaskRecord, Rejection> {
        let known = self.tasks.get(&id).or_else(|| self.state.task(id));
        known.map(|task| TaskRecord::clone(task)).ok_or(Rejection::UnknownTask { task: id })
    }

    pub(super) fn known_node(&self, node: &NodeId) -> Result<&NodeRecord, Rejection> {
        match self.view(node) {
            Some(view) => Ok(&view.record),
            None => Err(Rejection::UnknownNode { node: node.clone() }),
        }
    }

    /// As [`Draft::known_task`], moved out of the draft: for a caller that puts the next version.
    pub(super) fn take_task(&mut self, id: TaskId) -> Result<TaskRecord, Rejection> {
        match self.tasks.remove(&id) {
            Some(drafted) => Ok(Arc::unwrap_or_clone(drafted)),
            None => self.known_task(id),
        }
    }

    pub(super) fn view(&self, node: &NodeId) -> Option<&NodeView> {
        self.views.get(node).map(|view| &**view).or_else(|| self.state.nodes.get(node))
    }

    /// The node in the draft, which holds its own copy from then on.
    pub(super) fn view_mut(&mut self, node: &NodeId) -> Option<&mut NodeView> {
        if !self.views.contains_key(node) {
            let known = self.state.nodes.get(node)?.clone();
            self.views.insert(node.clone(), Box::new(known));
        }
        self.views.get_mut(node).map(|view| &mut **view)
    }

    /// Puts the record into the draft; notes the node that it left, the node that it returned to, and whether
    /// it became eligible.
    pub(super) fn put_task(&mut self, task: TaskRecord) {
        let before = self.tasks.get(&task.id).or_else(|| self.state.task(task.id));
        if before.is_none() && task.spec.is_large() {
            self.added.entry(task.spec.id()).or_insert_with(|| (task.spec.clone(), 0)).1 += 1;
        }
        let was_on = before.and_then(|before| before.node()).cloned();
        let left = was_on.clone().filter(|was_on| task.node() != Some(was_on));
        let came = task.node().filter(|is_on| was_on.as_ref() != Some(is_on)).cloned();
        let was_eligible = before.is_some_and(|before| before.is_eligible());
        if let Some(node) = left
            && let Some(view) = self.view_mut(&node)
        {
            view.held.release(&task.spec.resources);
            view.tasks -= 1;
            self.gained.insert(node);
        }
        if let Some(view) = came.and_then(|node| self.view_mut(&node)) {
            view.held.take(&task.spec.resources);
            view.tasks += 1;
        }
        if task.is_eligible() && !was_eligible {
            self.fresh.insert((rank(&task), task.id));
        }
        self.tasks.insert(task.id, Arc::new(task));
    }

    pub(super) fn put_node(&mut self, record: NodeRecord) {
        let record = Arc::new(record);
        let id = record.spec.id.clone();
        let view = match self.view(&id) {
            Some(view) => NodeView { record: record.clone(), ..view.clone() },
            None => NodeView { record: record.clone(), held: Held::default(), tasks: 0 },
        };
        if view.is_open() {
            self.gained.insert(id.clone());
        }
        self.views.insert(id.clone(), Box::new(view));
        self.nodes.insert(id, Some(record));
    }

    pub(super) fn into_changes(
        mut self,
        envelope: &Envelope,
        outcome: &Result<Outcome, Rejection>,
    ) -> Vec<Change> {
        if outcome.is_err() {
            self.tasks.clear();
            self.nodes.clear();
            self.added.clear();
            self.clock = Clock { time: self.clock.time, ..self.state.clock };
        }
        let mut changes = Vec::with_capacity(self.tasks.len() + self.nodes.len() + 2);
        let mut finished = self.state.finished.len();
        let mut removed = Vec::new();
        for (id, node) in self.nodes {
            match node {
                Some(record) => changes.push(Change::PutNode(record)),
                None => removed.push(Change::DeleteNode(id)),
            }
        }
        changes.extend(specs_without_record(self.state, &self.added, &self.tasks));
        for task in self.tasks.into_values() {
            finished += usize::from(task.is_finished());
            changes.push(Change::PutTask(task));
        }
        let surplus = finished.saturating_sub(self.state.config.finished_max).min(FORGOTTEN_AT_A_TIME);
        let mut released = BTreeMap::new();
        for (_, id) in self.state.finished.iter().take(surplus) {
            changes.push(Change::DeleteTask(*id));
            // An old record is in no cache: it is not looked at without need.
            if !self.state.specs.is_empty()
                && let spec = &self.state.task(*id).expect("it is indexed").spec
                && spec.is_large()
            {
                released.entry(spec.id()).or_insert((spec, 0)).1 += 1;
            }
        }
        for (id, (spec, released)) in released {
            let added = self.added.get(&id).map_or(0, |(_, added)| *added);
            if self.state.specs.record_is_spare(id, added, released) {
                changes.push(Change::DeleteSpec(spec.clone()));
            }
        }
        changes.extend(removed);
        let slots = u64::from(self.state.config.commands_max);
        // A transient rejection must not be recorded for the command.
        let passing = matches!(outcome, Err(Rejection::QueueFull { .. }));
        if let Some(id) = envelope.id.filter(|_| !passing)
            && slots > 0
        {
            let slot = u32::try_from(self.clock.commands % slots).expect("smaller than a u32");
            self.clock.commands += 1;
            changes.push(Change::PutCommand(
                slot,
                Arc::new(CommandRecord { id, outcome: outcome.clone(), subject: envelope.command.subject() }),
            ));
        }
        if self.clock != self.state.clock {
            changes.push(Change::PutClock(self.clock));
        }
        changes
    }
}

/// Large specs of these tasks that are not stored yet: those of new tasks, and those of tasks that were
/// stored in format 1.
fn specs_without_record(
    state: &ClusterState,
    added: &BTreeMap<SpecId, (SharedSpec, usize)>,
    tasks: &BTreeMap<TaskId, Arc<TaskRecord>>,
) -> Vec<Change> {
    let mut specs: BTreeMap<SpecId, &SharedSpec> = added.iter().map(|(id, (spec, _))| (*id, spec)).collect();
    if !state.specs.all_have_records() {
        let large = tasks.values().filter(|task| task.spec.is_large());
        specs.extend(large.map(|task| (task.spec.id(), &task.spec)));
    }
    let missing = specs.into_iter().filter(|(id, _)| !state.specs.has_record(*id));
    missing.map(|(_, spec)| Change::PutSpec(spec.clone())).collect()
}
