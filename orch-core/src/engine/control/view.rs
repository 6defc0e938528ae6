//! The read side: what is final, as readers, waiters, event streams and agents see it. Consensus publishes
//! into it; nobody else writes, except observations.

mod source;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::{oneshot, watch};

use self::source::Source;
use super::{
    event_log::EventLog,
    events::{Event, EventKind},
    mailbox::Mailboxes,
    tasks::{Observed, TaskFilter, TaskView, is_started, shown_status},
};
use crate::{
    engine::link::{Assignment, Assignments, Cursor, ObservationKind},
    model::{AttemptId, NodeId, SharedSpec, TaskId, Timestamp},
    scheduler::NodeView,
    state::{Change, ClusterState, Publish, TaskRecord, TaskStatus, TaskTable},
    store::Revision,
};

/// Shared between the publisher and all readers.
#[derive(Debug)]
pub(super) struct View {
    inner: RwLock<Inner>,
    /// Wakes event streams; holds the number of the latest event.
    pub(super) events: watch::Sender<u64>,
    /// Nothing will happen any more.
    closed: AtomicBool,
    /// Time at which the next tick has something to do.
    pub(super) due: watch::Sender<Option<Timestamp>>,
    pub(super) mailboxes: Mailboxes,
}

#[derive(Debug)]
struct Inner {
    revision: Revision,
    tasks: TaskTable,
    by_seq: BTreeMap<u64, TaskId>,
    /// Tasks that are not finished, by their place in the order of submission.
    unfinished: BTreeMap<u64, TaskId>,
    by_id: BTreeSet<TaskId>,
    by_node: HashMap<NodeId, BTreeSet<TaskId>>,
    /// Tasks by the status that is shown of them.
    counts: BTreeMap<TaskStatus, u64>,
    observed: HashMap<TaskId, Observed>,
    /// In order of ids. A reader takes what it needs of them and looks at it without the lock.
    nodes: Vec<Arc<NodeView>>,
    waiters: HashMap<TaskId, Vec<oneshot::Sender<()>>>,
    log: EventLog,
    stale: VecDeque<Stale>,
}

/// Observations that are void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// Observations of the attempt that ended.
    Attempt(AttemptId),
    /// Everything: the task was forgotten.
    Task(TaskId),
}

impl View {
    pub(super) fn new(events_kept: usize, mailbox_kept: usize, epoch: u64) -> Self {
        Self {
            inner: RwLock::new(Inner {
                revision: Revision::ZERO,
                tasks: TaskTable::default(),
                by_seq: BTreeMap::new(),
                unfinished: BTreeMap::new(),
                by_id: BTreeSet::new(),
                counts: BTreeMap::new(),
                by_node: HashMap::new(),
                observed: HashMap::new(),
                nodes: Vec::new(),
                waiters: HashMap::new(),
                log: EventLog::new(events_kept),
                stale: VecDeque::new(),
            }),
            events: watch::Sender::new(0),
            closed: AtomicBool::new(false),
            due: watch::Sender::new(None),
            mailboxes: Mailboxes::new(mailbox_kept, epoch),
        }
    }

    /// Ends whoever waits for something.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.write().waiters.clear();
        self.events.send_modify(|_| {});
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn revision(&self) -> Revision {
        self.read().revision
    }

    pub(super) fn task(&self, id: TaskId) -> Option<TaskView> {
        let inner = self.read();
        let record = inner.tasks.get(id)?.clone();
        Some(TaskView { observed: inner.observed.get(&id).cloned(), record })
    }

    /// Tasks in the order that the filter asks for. Looks at some at a time, so that decisions never wait for
    /// a long list; each task is shown as it was when it was looked at.
    pub(super) fn list(&self, filter: &TaskFilter) -> Vec<TaskView> {
        let (mut found, mut source) = (Vec::new(), Source::new(filter));
        while found.len() < filter.limit {
            let Some(some) = self.some_of(&mut source, filter) else { break };
            found.extend(some.into_iter().filter(|view| filter.follows(view)));
        }
        match filter.newest_first {
            true => found.sort_unstable_by_key(|view| std::cmp::Reverse(view.record.seq)),
            false => found.sort_unstable_by_key(|view| view.record.seq),
        }
        found.truncate(filter.limit);
        found
    }

    /// Number of tasks that match, whatever page is asked for.
    pub(super) fn count(&self, filter: &TaskFilter) -> u64 {
        let all = TaskFilter { after_seq: None, ..filter.clone() };
        let (mut count, mut source) = (0, Source::new(&all));
        while let Some(some) = self.some_of(&mut source, &all) {
            count += some.len() as u64;
        }
        count
    }

    /// Those of the next tasks of `source` that match; `None` when there are no more.
    fn some_of(&self, source: &mut Source, filter: &TaskFilter) -> Option<Vec<TaskView>> {
        const LOOK: usize = 256;
        let inner = self.read();
        let ids = source.next(&inner, LOOK);
        let known = ids.iter().filter_map(|id| {
            let record = inner.tasks.get(*id)?.clone();
            let view = TaskView { record, observed: inner.observed.get(id).cloned() };
            filter.matches(&view).then_some(view)
        });
        (!ids.is_empty()).then(|| known.collect())
    }

    /// In order of their ids.
    pub(super) fn shared_nodes(&self) -> Vec<Arc<NodeView>> {
        self.read().nodes.clone()
    }

    pub(super) fn nodes(&self) -> Vec<NodeView> {
        let nodes = self.shared_nodes();
        nodes.iter().map(|node| NodeView::clone(node)).collect()
    }

    pub(super) fn node(&self, id: &NodeId) -> Option<Arc<NodeView>> {
        let inner = self.read();
        inner.find_node(id).ok().map(|at| inner.nodes[at].clone())
    }

    pub(super) fn count_by_status(&self) -> BTreeMap<TaskStatus, u64> {
        self.read()
            .counts
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(name, count)| (*name, *count))
            .collect()
    }

    /// Resolves when the task has finished, with an error when the view is closed before. `None` when it has
    /// already or is not known.
    pub(super) fn finished(&self, id: TaskId) -> Option<oneshot::Receiver<()>> {
        let mut inner = self.write();
        if inner.tasks.get(id).is_none_or(|task| task.is_finished()) {
            return None;
        }
        let (done, finished) = oneshot::channel();
        if self.is_closed() {
            return Some(finished);
        }
        let waiters = inner.waiters.entry(id).or_default();
        // Before it grows, and not for each one, so that many who wait cost no more than they are.
        if waiters.len() == waiters.capacity() {
            waiters.retain(|waiter| !waiter.is_closed());
        }
        waiters.push(done);
        Some(finished)
    }

    /// Events after `number`, at most `max` of them, or the earliest number that is still kept.
    pub(super) fn events_after(&self, number: u64, max: usize) -> Result<Vec<Event>, u64> {
        self.read().log.after(number, max)
    }

    /// The number of the last event at or before `revision`, or the earliest revision to go on from.
    pub(super) fn event_number(&self, revision: Revision) -> Result<u64, Revision> {
        self.read().log.number_at(revision)
    }

    pub(super) fn last_event(&self) -> u64 {
        self.read().log.last()
    }

    /// Notes what `node` saw of an attempt, unless it does not hold that attempt. Says whether it was noted.
    pub(super) fn observe(&self, node: &NodeId, attempt: AttemptId, kind: &ObservationKind) -> bool {
        let mut inner = self.write();
        let task = inner.tasks.get(attempt.task);
        let held = task.filter(|task| task.current_attempt() == Some(attempt) && task.node() == Some(node));
        let Some(task) = held.cloned() else { return false };
        let shown = inner.shown(&task);
        let observed = inner.observed.entry(attempt.task).or_insert_with(|| Observed::new(attempt.attempt));
        if observed.attempt != attempt.attempt {
            *observed = Observed::new(attempt.attempt);
        }
        let news = observed.apply(kind);
        let now = inner.shown(&task);
        inner.recount(Some(shown), Some(now));
        if news {
            let revision = inner.revision;
            inner.log.push(revision, EventKind::Observed { attempt, kind: kind.clone() });
            let last = inner.log.last();
            drop(inner);
            self.events.send_replace(last);
        }
        true
    }

    pub(super) fn observed(&self, task: TaskId) -> Option<Observed> {
        self.read().observed.get(&task).cloned()
    }

    /// Takes what can be deleted from the store.
    pub(super) fn take_stale(&self) -> Vec<Stale> {
        self.write().stale.drain(..).collect()
    }

    /// Applies what was observed before a restart, where it is still about the current attempt.
    pub(super) fn restore_observed(&self, attempt: AttemptId, observed: Observed) {
        let mut inner = self.write();
        let task = inner.tasks.get(attempt.task);
        let Some(task) = task.filter(|task| task.current_attempt() == Some(attempt)).cloned() else {
            return inner.stale.push_back(Stale::Attempt(attempt));
        };
        let shown = inner.shown(&task);
        inner.observed.insert(attempt.task, observed);
        let now = inner.shown(&task);
        inner.recount(Some(shown), Some(now));
    }

    /// Everything that the node should do. Specs come for attempts after `specs_after`, as many as have room.
    pub(super) fn all_assignments(
        &self,
        node: &NodeId,
        cursor: Cursor,
        specs_after: Option<AttemptId>,
    ) -> Assignments {
        let (revision, wanted) = {
            let inner = self.read();
            let records = inner.by_node.get(node).into_iter().flatten().filter_map(|id| inner.tasks.get(*id));
            let wanted: Vec<Wanted> = records.filter_map(|record| inner.wanted(record, node)).collect();
            (inner.revision, wanted)
        };
        let mut answer = Answer::new(cursor, revision, true);
        for wanted in wanted {
            match wanted.stop {
                true => answer.to.stop.push(wanted.attempt),
                false if Some(wanted.attempt) <= specs_after => answer.to.named.push(wanted.attempt),
                false => answer.run_or_name(&wanted),
            }
        }
        answer.to
    }

    /// Changes for the node about these attempts, as many as have room; the cursor is behind those. `changed`
    /// are the last ones before `cursor`.
    pub(super) fn some_assignments(
        &self,
        node: &NodeId,
        cursor: Cursor,
        changed: &[AttemptId],
    ) -> Assignments {
        let (revision, current) = {
            let inner = self.read();
            let of = |task: TaskId| inner.wanted(inner.tasks.get(task)?, node);
            let current: Vec<Option<Wanted>> = changed.iter().map(|attempt| of(attempt.task)).collect();
            (inner.revision, current)
        };
        let mut answer = Answer::new(cursor, revision, false);
        let mut named = BTreeSet::new();
        for (number, (attempt, wanted)) in changed.iter().zip(current).enumerate() {
            if let Some(wanted) = &wanted
                && named.insert(wanted.attempt)
            {
                match wanted.stop {
                    true => answer.to.stop.push(wanted.attempt),
                    false if answer.run(wanted) => {}
                    false => {
                        answer.to.cursor.position -= (changed.len() - number) as u64;
                        break;
                    }
                }
            }
            // Named above where it is the current one.
            if named.insert(*attempt) {
                answer.to.superseded.push(*attempt);
            }
        }
        answer.to
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write()
    }

    fn apply(&self, revision: Revision, changes: &[Change], state: &ClusterState) {
        let mut moved = Vec::new();
        let mut inner = self.write();
        inner.revision = revision;
        let mut nodes_changed: BTreeSet<&NodeId> = BTreeSet::new();
        for change in changes {
            match change {
                Change::PutTask(record) => {
                    let before = inner.tasks.insert(record.clone());
                    let shown = before.as_deref().map(|before| inner.shown(before));
                    note_moves(&mut moved, before.as_deref(), record);
                    inner.note_task(before.as_deref(), record);
                    let now = inner.shown(record);
                    inner.recount(shown, Some(now));
                    inner.log.push(revision, EventKind::Task(record.clone()));
                }
                Change::DeleteTask(id) => {
                    // Another member may have ended and forgotten it in one go.
                    if let Some(record) = inner.forget(*id)
                        && let (Some(node), Some(attempt)) = (record.node(), record.current_attempt())
                    {
                        moved.push((node.clone(), attempt));
                    }
                    inner.log.push(revision, EventKind::TaskForgotten(*id));
                }
                Change::PutNode(record) => {
                    nodes_changed.insert(&record.spec.id);
                    inner.log.push(revision, EventKind::Node(record.clone()));
                }
                Change::DeleteNode(id) => {
                    nodes_changed.insert(id);
                    inner.by_node.remove(id);
                    inner.log.push(revision, EventKind::NodeRemoved(id.clone()));
                }
                Change::PutSpec(_)
                | Change::DeleteSpec(_)
                | Change::PutCommand(..)
                | Change::DeleteCommand(_)
                | Change::PutClock(_) => {}
            }
        }
        nodes_changed.extend(moved.iter().map(|(node, _)| node));
        for node in nodes_changed {
            inner.follow_node(node, state.node(node));
        }
        let last = inner.log.last();
        drop(inner);
        self.mailboxes.post(moved);
        self.events.send_replace(last);
        let due = state.next_due();
        // Whoever waits for it is woken only when there is something new to wait for.
        self.due.send_if_modified(|known| std::mem::replace(known, due) != due);
    }

    fn replace(&self, revision: Revision, state: &ClusterState) {
        let mut inner = self.write();
        inner.revision = revision;
        inner.tasks = state.tasks().into_iter().collect();
        inner.by_seq = inner.tasks.values().map(|task| (task.seq, task.id)).collect();
        let unfinished = inner.tasks.values().filter(|task| !task.is_finished());
        inner.unfinished = unfinished.map(|task| (task.seq, task.id)).collect();
        inner.by_id = inner.tasks.values().map(|task| task.id).collect();
        inner.nodes = state.nodes().iter().cloned().map(Arc::new).collect();
        inner.by_node = state
            .nodes()
            .iter()
            .map(|node| (node.id().clone(), state.tasks_of(node.id()).map(|task| task.id).collect()))
            .collect();
        inner.log.restart(revision);
        let Inner { tasks, observed, .. } = &mut *inner;
        observed.retain(|task, observed| {
            let current = tasks.get(*task).and_then(|task| task.current_attempt());
            current.is_some_and(|current| current.attempt == observed.attempt)
        });
        inner.count_all();
        let finished: Vec<TaskId> = inner
            .waiters
            .keys()
            .filter(|id| inner.tasks.get(**id).is_none_or(|task| task.is_finished()))
            .copied()
            .collect();
        for id in finished {
            inner.wake(id);
        }
        let last = inner.log.last();
        drop(inner);
        self.mailboxes.restart();
        self.events.send_replace(last);
        self.due.send_replace(state.next_due());
    }
}

impl Inner {
    fn note_task(&mut self, before: Option<&TaskRecord>, record: &TaskRecord) {
        if before.is_none() {
            self.by_seq.insert(record.seq, record.id);
            self.by_id.insert(record.id);
            self.unfinished.insert(record.seq, record.id);
        }
        let (was_on, is_on) = (before.and_then(TaskRecord::node), record.node());
        if was_on != is_on {
            if let Some(tasks) = was_on.and_then(|node| self.by_node.get_mut(node)) {
                tasks.remove(&record.id);
            }
            if let Some(node) = is_on {
                self.by_node.entry(node.clone()).or_default().insert(record.id);
            }
        }
        let was = before.and_then(TaskRecord::current_attempt);
        if let Some(ended) = was.filter(|was| Some(*was) != record.current_attempt())
            && self.observed.remove(&record.id).is_some()
        {
            self.stale.push_back(Stale::Attempt(ended));
        }
        if record.is_finished() {
            self.unfinished.remove(&record.seq);
            self.wake(record.id);
        }
    }

    /// Takes over what a node is like now; `None` when it is gone.
    fn follow_node(&mut self, id: &NodeId, now: Option<&NodeView>) {
        match (self.find_node(id), now) {
            (Ok(at), Some(now)) => self.nodes[at] = Arc::new(now.clone()),
            (Err(at), Some(now)) => self.nodes.insert(at, Arc::new(now.clone())),
            (Ok(at), None) => drop(self.nodes.remove(at)),
            (Err(_), None) => {}
        }
    }

    fn find_node(&self, id: &NodeId) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.id().cmp(id))
    }

    fn shown(&self, record: &TaskRecord) -> TaskStatus {
        shown_status(record, self.observed.get(&record.id))
    }

    /// A task was shown as `before`, and is as `now`.
    fn recount(&mut self, before: Option<TaskStatus>, now: Option<TaskStatus>) {
        if before == now {
            return;
        }
        if let Some(count) = before.and_then(|before| self.counts.get_mut(&before)) {
            *count -= 1;
        }
        if let Some(now) = now {
            *self.counts.entry(now).or_default() += 1;
        }
    }

    fn count_all(&mut self) {
        let mut counts = BTreeMap::new();
        for status in self.tasks.values().map(|record| self.shown(record)) {
            *counts.entry(status).or_default() += 1;
        }
        self.counts = counts;
    }

    /// The attempt that `record` wants on this node.
    fn wanted(&self, record: &TaskRecord, node: &NodeId) -> Option<Wanted> {
        let attempt = record.current_attempt().filter(|_| record.node() == Some(node))?;
        let (stop, started) = (record.stop.is_some(), is_started(record, self.observed.get(&record.id)));
        Some(Wanted { attempt, stop, started, spec: record.spec.clone() })
    }

    fn forget(&mut self, id: TaskId) -> Option<Arc<TaskRecord>> {
        let forgotten = self.tasks.remove(id);
        let shown = forgotten.as_deref().map(|forgotten| self.shown(forgotten));
        self.recount(shown, None);
        if let Some(record) = &forgotten {
            self.by_seq.remove(&record.seq);
            self.unfinished.remove(&record.seq);
            self.by_id.remove(&id);
            if let Some(tasks) = record.node().and_then(|node| self.by_node.get_mut(node)) {
                tasks.remove(&id);
            }
        }
        self.observed.remove(&id);
        self.stale.push_back(Stale::Task(id));
        self.wake(id);
        forgotten
    }

    fn wake(&mut self, id: TaskId) {
        for waiter in self.waiters.remove(&id).unwrap_or_default() {
            let _ = waiter.send(());
        }
    }
}

/// Notes the nodes whose mailboxes get a change of a task.
fn note_moves(moved: &mut Vec<(NodeId, AttemptId)>, before: Option<&TaskRecord>, now: &TaskRecord) {
    let was = before.and_then(|task| Some((task.node()?, task.current_attempt()?, task.stop.is_some())));
    let is = Some(now).and_then(|task| Some((task.node()?, task.current_attempt()?, task.stop.is_some())));
    if was == is {
        return;
    }
    if let Some((node, attempt, _)) = was
        && is.is_none_or(|(_, current, _)| current != attempt)
    {
        moved.push((node.clone(), attempt));
    }
    if let Some((node, attempt, _)) = is {
        moved.push((node.clone(), attempt));
    }
}

/// An attempt that a node should have.
struct Wanted {
    attempt: AttemptId,
    stop: bool,
    /// It was observed running.
    started: bool,
    spec: SharedSpec,
}

/// Assignments with a bound.
struct Answer {
    to: Assignments,
    bytes: usize,
}

impl Answer {
    /// Specs of one answer come to about so much: what agents read at a time, and what a lost answer costs.
    const BYTES_MAX: usize = 4 << 20;

    fn new(cursor: Cursor, revision: Revision, complete: bool) -> Self {
        Self { to: Assignments::new(cursor, revision, complete), bytes: 0 }
    }

    /// Adds an attempt with its spec. Says whether it has room; the first one always has.
    fn run(&mut self, wanted: &Wanted) -> bool {
        self.bytes += wanted.spec.json_bytes_max();
        let has_room = self.to.run.is_empty() || self.bytes <= Self::BYTES_MAX;
        if has_room {
            let Wanted { attempt, started, ref spec, .. } = *wanted;
            self.to.run.push(Assignment { attempt, spec: spec.clone(), started });
        }
        has_room
    }

    /// Adds an attempt, without its spec where that has no room.
    fn run_or_name(&mut self, wanted: &Wanted) {
        // Those with specs come before all without, so that the next answer can go on after the last of them.
        if self.to.more || !self.run(wanted) {
            self.to.more = true;
            self.to.named.push(wanted.attempt);
        }
    }
}

/// Gives what became final to a view.
#[derive(Debug)]
pub(super) struct Publisher(pub(super) Arc<View>);

impl Publish for Publisher {
    fn publish(&mut self, revision: Revision, changes: &[Change], state: &ClusterState) {
        self.0.apply(revision, changes, state);
    }

    fn reset(&mut self, revision: Revision, state: &ClusterState) {
        self.0.replace(revision, state);
    }
}
