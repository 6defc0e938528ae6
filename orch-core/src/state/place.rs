//! Placement of tasks that became placeable, with as few calls of the scheduler as possible.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, btree_set},
    iter::Peekable,
    sync::Arc,
    vec,
};

use super::{
    TaskRecord,
    draft::Draft,
    queue::{Rank, Shape, Waiting},
};
use crate::{
    model::{NodeId, TaskId},
    scheduler::{NodeView, Pending, Placement, Snapshot},
};

impl<'a> Draft<'a> {
    /// Places tasks that became placeable. Every waiting shape is known to fit nowhere ([`super::queue`]), so
    /// only nodes that gained capacity are tried for those, and only tasks of other shapes are tried on all
    /// nodes.
    pub(super) fn place(&mut self) {
        if !self.gained.is_empty() {
            self.place_on_gained_nodes();
        }
        if !self.fresh.is_empty() {
            self.place_fresh_tasks();
        }
    }

    fn place_on_gained_nodes(&mut self) {
        if self.state.queue.is_empty() && self.fresh.is_empty() {
            return;
        }
        let mut lines = self.fresh_lines();
        // Shapes that have a line.
        let mut touched: BTreeSet<Shape> = lines.iter().map(|line| line.shape.clone()).collect();
        // First task of every line that may still fit, in order of rank, and the index of the line.
        let mut heads: BinaryHeap<Reverse<((Rank, TaskId), usize)>> = BinaryHeap::new();
        for (at, line) in lines.iter_mut().enumerate() {
            heads.extend(line.next(&self.tasks).map(|first| Reverse((first, at))));
        }
        let mut nodes = self.open_gained_nodes();
        loop {
            // No capacity is released in this loop: what does not fit now fits no more.
            while heads.peek().is_some_and(|Reverse((_, at))| !lines[*at].fits(&nodes)) {
                heads.pop();
            }
            let head = heads.peek().map(|Reverse((entry, _))| *entry);
            let waiting = nodes.iter().filter_map(|node| self.state.queue.first_fit(node, &touched)).min();
            if let Some((_, shape)) = waiting.filter(|(entry, _)| head.is_none_or(|head| *entry < head)) {
                // The task may have changed with this command; its line knows the current first task.
                let mut line = Line::of(shape.clone(), self.state.queue.waiting(&shape), Vec::new());
                heads.extend(line.next(&self.tasks).map(|first| Reverse((first, lines.len()))));
                lines.push(line);
                touched.insert(shape);
                continue;
            }
            let Some(Reverse((entry, at))) = heads.pop() else { return };
            self.plan_and_start(&nodes, &[entry]);
            // Where one does not fit, none of its shape does.
            if self.tasks.get(&entry.1).is_some_and(|task| task.node().is_some()) {
                heads.extend(lines[at].next(&self.tasks).map(|next| Reverse((next, at))));
                nodes = self.open_gained_nodes();
            }
        }
    }

    fn open_gained_nodes(&self) -> Vec<NodeView> {
        self.gained.iter().filter_map(|node| self.view(node)).filter(|view| view.is_open()).cloned().collect()
    }

    /// Tasks that became eligible with this command, one line a shape, with those of it that wait.
    fn fresh_lines(&self) -> Vec<Line<'a>> {
        let mut fresh: BTreeMap<Shape, Vec<(Rank, TaskId)>> = BTreeMap::new();
        for entry in &self.fresh {
            let (task, shape) = (&self.tasks[&entry.1], Shape::of(&self.tasks[&entry.1]));
            // The node where its last attempt failed comes last: the task is tried on all nodes afterwards. A
            // shape that waits already fits nowhere else.
            let avoided = task.avoid().is_some_and(|node| self.gained.contains(node));
            if !avoided || self.state.queue.waits(&shape) {
                fresh.entry(shape).or_default().push(*entry);
            }
        }
        let waiting = |shape: &Shape| self.state.queue.waiting(shape);
        fresh.into_iter().map(|(shape, fresh)| Line::of(shape.clone(), waiting(&shape), fresh)).collect()
    }

    fn place_fresh_tasks(&mut self) {
        let candidates: Vec<(Rank, TaskId)> = self
            .fresh
            .iter()
            .filter(|(_, id)| {
                let task = &self.tasks[id];
                task.is_eligible()
                    && (self.state.queue.is_empty() || !self.state.queue.waits(&Shape::of(task)))
            })
            .copied()
            .collect();
        if candidates.is_empty() {
            return;
        }
        if self.views.is_empty() {
            return self.plan_and_start(self.state.nodes(), &candidates);
        }
        let mut nodes: BTreeMap<&NodeId, &NodeView> =
            self.state.nodes().iter().map(|view| (view.id(), view)).collect();
        nodes.extend(self.views.iter().map(|(id, view)| (id, &**view)));
        let nodes: Vec<NodeView> = nodes.into_values().cloned().collect();
        self.plan_and_start(&nodes, &candidates);
    }

    /// Lets the scheduler place `tasks` on `nodes` and starts an attempt for each placement that holds up.
    fn plan_and_start(&mut self, nodes: &[NodeView], tasks: &[(Rank, TaskId)]) {
        if nodes.is_empty() || tasks.is_empty() {
            return;
        }
        let records: Vec<Arc<TaskRecord>> = tasks
            .iter()
            .map(|(_, id)| {
                self.tasks.get(id).or_else(|| self.state.task(*id)).expect("it is eligible").clone()
            })
            .collect();
        let pending: Vec<Pending<'_>> = records
            .iter()
            .map(|task| Pending { task: task.id, spec: &task.spec, avoid: task.avoid() })
            .collect();
        let plan = self.state.scheduler.plan(Snapshot { nodes, explain: false }, &pending);
        // Records with one reference are changed in place.
        drop(records);
        for Placement { task, node } in plan.placements {
            // A scheduler is a plug-in; a faulty one costs placements, not the invariants.
            let Some(known) = self.tasks.get(&task).or_else(|| self.state.task(task)) else { continue };
            if !known.is_eligible() || !self.view(&node).is_some_and(|view| view.accepts(&known.spec)) {
                continue;
            }
            let Ok(mut record) = self.take_task(task) else { continue };
            self.start_attempt(&mut record, &node);
            if let Some(view) = self.view_mut(&node) {
                view.held.take(&record.spec.resources);
                view.tasks += 1;
            }
            self.tasks.insert(task, Arc::new(record));
        }
    }
}

/// The tasks of one shape in order of rank: those that waited already, and those that came with this command.
struct Line<'a> {
    shape: Shape,
    waiting: Option<Peekable<btree_set::Iter<'a, (Rank, TaskId)>>>,
    fresh: Peekable<vec::IntoIter<(Rank, TaskId)>>,
}

impl<'a> Line<'a> {
    fn of(shape: Shape, waiting: Option<&'a Waiting>, fresh: Vec<(Rank, TaskId)>) -> Self {
        Self {
            shape,
            waiting: waiting.map(|waiting| waiting.iter().peekable()),
            fresh: fresh.into_iter().peekable(),
        }
    }

    fn fits(&self, nodes: &[NodeView]) -> bool {
        nodes.iter().any(|node| self.shape.fits(node))
    }

    /// The next task that is still eligible.
    fn next(&mut self, drafted: &BTreeMap<TaskId, Arc<TaskRecord>>) -> Option<(Rank, TaskId)> {
        let eligible = |(_, id): &(Rank, TaskId)| drafted.get(id).is_none_or(|task| task.is_eligible());
        std::iter::from_fn(|| self.first()).find(eligible)
    }

    fn first(&mut self) -> Option<(Rank, TaskId)> {
        let waiting = self.waiting.as_mut().and_then(|waiting| waiting.peek().map(|entry| **entry));
        match (waiting, self.fresh.peek()) {
            (Some(waiting), fresh) if fresh.is_none_or(|fresh| waiting < *fresh) => {
                self.waiting.as_mut()?.next().copied()
            }
            _ => self.fresh.next(),
        }
    }
}
