//! State of a cluster: records, and indexes derived from them.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    sync::Arc,
};

use super::{
    Change, Clock, ClusterConfig, CommandRecord, TaskRecord, TaskState, commands::Commands, nodes::Nodes,
    queue::Queue, snapshot, specs::Specs, table::TaskTable,
};
use crate::{
    consensus::MachineError,
    model::{NodeId, Scheduling, SharedSpec, SpecId, TaskId, Timestamp},
    scheduler::{NodeView, Scheduler},
};

/// State that results from all decisions. Two states that absorbed the same changes are equal in every
/// respect.
#[derive(Debug)]
pub struct ClusterState {
    pub(super) config: ClusterConfig,
    pub(super) scheduler: Arc<dyn Scheduler>,
    pub(super) clock: Clock,
    pub(super) tasks: TaskTable,
    pub(super) specs: Specs,
    pub(super) nodes: Nodes,
    pub(super) commands: Commands,
    /// Eligible tasks.
    pub(super) queue: Queue,
    /// Tasks that wait for a lost node, by node.
    pub(super) disconnected: BTreeSet<(NodeId, TaskId)>,
    /// Times at which time alone changes something, by task.
    pub(super) due: BTreeSet<(Timestamp, TaskId)>,
    /// Finished tasks, the oldest first.
    pub(super) finished: BTreeSet<(Timestamp, TaskId)>,
}

impl ClusterState {
    /// Empty cluster.
    #[must_use]
    pub fn new(config: ClusterConfig, scheduler: Arc<dyn Scheduler>) -> Self {
        Self {
            config,
            scheduler,
            clock: Clock::default(),
            tasks: TaskTable::default(),
            specs: Specs::default(),
            nodes: Nodes::default(),
            commands: Commands::default(),
            queue: Queue::default(),
            disconnected: BTreeSet::new(),
            due: BTreeSet::new(),
            finished: BTreeSet::new(),
        }
    }

    /// Applies one change and returns the change that undoes it.
    ///
    /// # Panics
    /// When the change cannot follow from this state (it places a task on an unknown node, say): `decide`
    /// never makes such changes, so state and changes do not belong together.
    pub fn absorb(&mut self, change: Change) -> Change {
        match change {
            Change::PutSpec(spec) => self.set_spec_record(spec, true),
            Change::DeleteSpec(spec) => self.set_spec_record(spec, false),
            Change::PutTask(record) => {
                let id = record.id;
                let before = self.tasks.insert(record.clone());
                if before.as_ref().is_none_or(|before| !before.spec.is(&record.spec)) {
                    self.specs.take(&record.spec);
                    before.iter().for_each(|before| self.specs.release(&before.spec));
                }
                if let Some(before) = &before {
                    self.unindex(before);
                }
                self.index(&record);
                before.map_or(Change::DeleteTask(id), Change::PutTask)
            }
            Change::DeleteTask(id) => match self.tasks.remove(id) {
                Some(before) => {
                    self.specs.release(&before.spec);
                    self.unindex(&before);
                    Change::PutTask(before)
                }
                None => Change::DeleteTask(id),
            },
            Change::PutNode(record) => {
                let id = record.spec.id.clone();
                self.nodes.put(record).map_or(Change::DeleteNode(id), Change::PutNode)
            }
            Change::DeleteNode(id) => self.nodes.delete(&id).map_or(Change::DeleteNode(id), Change::PutNode),
            Change::PutCommand(slot, record) => self.set_command(slot, Some(record)),
            Change::DeleteCommand(slot) => self.set_command(slot, None),
            Change::PutClock(clock) => Change::PutClock(std::mem::replace(&mut self.clock, clock)),
        }
    }

    /// The task, if it is known.
    #[must_use]
    pub fn task(&self, id: TaskId) -> Option<&Arc<TaskRecord>> {
        self.tasks.get(id)
    }

    /// All tasks in order of submission.
    #[must_use]
    pub fn tasks(&self) -> Vec<Arc<TaskRecord>> {
        let mut tasks: Vec<_> = self.tasks.values().cloned().collect();
        tasks.sort_unstable_by_key(|task| task.seq);
        tasks
    }

    /// The spec, if a task has it.
    #[must_use]
    pub fn spec(&self, id: SpecId) -> Option<&SharedSpec> {
        self.specs.get(id)
    }

    /// All nodes in order of their ids, with the resources that their tasks hold.
    #[must_use]
    pub fn nodes(&self) -> &[NodeView] {
        self.nodes.views()
    }

    /// A node, with the resources that its tasks hold.
    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<&NodeView> {
        self.nodes.get(id)
    }

    /// The tasks that belong to a node now.
    pub fn tasks_of(&self, node: &NodeId) -> impl Iterator<Item = &Arc<TaskRecord>> {
        self.nodes.tasks_of(node).filter_map(|task| self.tasks.get(task))
    }

    /// Latest time of any command.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.clock.time
    }

    /// Time at which a [`Command::Tick`](super::Command::Tick) has something to do next.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let drains = self.nodes.draining().filter_map(|node| self.drain_due(node));
        self.due.first().map(|(at, _)| *at).into_iter().chain(drains).min()
    }

    /// The whole state as bytes; equal states give equal bytes. Chunks of records, with a hash of each.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        snapshot::write(self.records())
    }

    /// SHA-256 of the hashes of the chunks of [`ClusterState::snapshot`].
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        snapshot::digest(self.records())
    }

    /// Replaces the whole state by that of a snapshot.
    ///
    /// # Errors
    /// The snapshot is damaged or cannot be parsed, or its records do not belong together. The state is
    /// unchanged then.
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        self.rebuild(snapshot::read(snapshot)?)
    }

    /// A change for every record, in an order in which another state can absorb them.
    fn records(&self) -> impl Iterator<Item = Change> {
        let nodes = self.nodes.views().iter().map(|view| Change::PutNode(view.record.clone()));
        let specs = self.specs.all().into_iter().cloned().map(Change::PutSpec);
        let tasks = self.tasks().into_iter().map(Change::PutTask);
        let commands = self.commands.iter().map(|(slot, record)| Change::PutCommand(slot, record.clone()));
        iter::once(Change::PutClock(self.clock)).chain(nodes).chain(specs).chain(tasks).chain(commands)
    }

    /// Replaces the whole state by these records, given in any order.
    ///
    /// # Errors
    /// Records that do not belong together. The state is unchanged then.
    pub fn rebuild(&mut self, records: impl IntoIterator<Item = Change>) -> Result<(), MachineError> {
        let mut fresh = Self::new(self.config.clone(), self.scheduler.clone());
        let (mut later, mut seqs) = (Vec::new(), BTreeMap::new());
        for change in records {
            match change {
                Change::PutNode(_) | Change::PutSpec(_) => drop(fresh.absorb(change)),
                other => later.push(other),
            }
        }
        for change in later {
            fresh.check_foreign(&change)?;
            if let Change::PutTask(task) = &change
                && let Some(other) = seqs.insert(task.seq, task.id)
            {
                return Err(MachineError::inconsistent(
                    format!("task {}", task.id),
                    format!("it has the sequence number of task {other}"),
                ));
            }
            fresh.absorb(change);
        }
        if let Some((seq, task)) = seqs.last_key_value()
            && *seq >= fresh.clock.next_seq
        {
            return Err(MachineError::inconsistent(
                format!("task {task}"),
                "its sequence number was not given out yet: the record meta/clock is missing or too old",
            ));
        }
        *self = fresh;
        Ok(())
    }

    /// Rejects a change that [`ClusterState::absorb`] would panic on. For records from outside.
    pub(super) fn check_foreign(&self, change: &Change) -> Result<(), MachineError> {
        match change {
            Change::PutTask(task) => match task.node() {
                Some(node) if self.nodes.get(node).is_none() => Err(MachineError::inconsistent(
                    format!("task {}", task.id),
                    format!("it is placed on node {node}, which has no record"),
                )),
                _ => Ok(()),
            },
            Change::DeleteSpec(spec) => match self.specs.tasks_of(spec.id()) {
                0 => Ok(()),
                tasks => Err(MachineError::inconsistent(
                    format!("spec {}", spec.id()),
                    format!("it was deleted, and {tasks} tasks have it"),
                )),
            },
            Change::DeleteNode(node) => match self.nodes.tasks_of(node).next() {
                Some(task) => Err(MachineError::inconsistent(
                    format!("node {node}"),
                    format!("it was deleted, and task {task} is placed on it"),
                )),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// End of a draining node's grace, as long as an attempt there was not asked to stop.
    pub(super) fn drain_due(&self, node: &NodeView) -> Option<Timestamp> {
        let Scheduling::Draining { evict_at } = node.record.scheduling else { return None };
        self.tasks_of(node.id()).any(|task| task.stop.is_none()).then_some(evict_at)
    }

    /// Tasks that wait for this lost node.
    pub(super) fn waiting_for(&self, node: &NodeId) -> Vec<TaskId> {
        let first = (node.clone(), TaskId::from_bytes([0; 16]));
        let waiting = self.disconnected.range(first..).take_while(|(lost, _)| lost == node);
        waiting.map(|(_, task)| *task).collect()
    }

    /// Number of tasks that are not finished.
    pub(super) fn unfinished(&self) -> usize {
        self.tasks.len() - self.finished.len()
    }

    fn index(&mut self, task: &TaskRecord) {
        if let Some(due) = task.due(&self.config) {
            self.due.insert((due, task.id));
        }
        match &task.state {
            TaskState::Pending { not_before: None, .. } => self.queue.insert(task),
            TaskState::Pending { .. } => {}
            TaskState::Placed { node, .. } => self.nodes.take(node, task),
            TaskState::Disconnected { node, .. } => drop(self.disconnected.insert((node.clone(), task.id))),
            TaskState::Finished { at, .. } => drop(self.finished.insert((*at, task.id))),
        }
    }

    fn unindex(&mut self, task: &TaskRecord) {
        if let Some(due) = task.due(&self.config) {
            self.due.remove(&(due, task.id));
        }
        match &task.state {
            TaskState::Pending { not_before: None, .. } => self.queue.remove(task),
            TaskState::Pending { .. } => {}
            TaskState::Placed { node, .. } => self.nodes.release(node, task),
            TaskState::Disconnected { node, .. } => drop(self.disconnected.remove(&(node.clone(), task.id))),
            TaskState::Finished { at, .. } => drop(self.finished.remove(&(*at, task.id))),
        }
    }

    fn set_spec_record(&mut self, spec: SharedSpec, has_record: bool) -> Change {
        match self.specs.set_record(&spec, has_record) {
            true => Change::PutSpec(spec),
            false => Change::DeleteSpec(spec),
        }
    }

    fn set_command(&mut self, slot: u32, record: Option<Arc<CommandRecord>>) -> Change {
        match self.commands.set(slot, record) {
            Some(before) => Change::PutCommand(slot, before),
            None => Change::DeleteCommand(slot),
        }
    }
}
