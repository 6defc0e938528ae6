//! Placing what became placeable, with as few questions to the scheduler as possible.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    TaskRecord,
    draft::Draft,
    queue::{Rank, Shape},
};
use crate::{
    model::{NodeId, TaskId},
    scheduler::{NodeView, Pending, Placement, Snapshot},
};

impl Draft<'_> {
    /// Places what became placeable. Every waiting shape is known to fit nowhere ([`super::queue`]), so only nodes that
    /// gained capacity are tried for those, and only tasks of other shapes are tried on all nodes.
    pub(super) fn place(&mut self) {
        if !self.gained.is_empty() {
            self.place_on_gained_nodes();
        }
        if !self.fresh.is_empty() {
            self.place_fresh_tasks();
        }
    }

    pub(super) fn place_on_gained_nodes(&mut self) {
        if self.state.queue.is_empty() && self.fresh.is_empty() {
            return;
        }
        let waiting = self.waiting_by_shape();
        // The first task of every shape that may still fit, in order of rank, with its place in the shape's list.
        let mut heads: BTreeSet<((Rank, TaskId), usize, usize)> =
            waiting.iter().enumerate().filter_map(|(shape, list)| Some((*list.first()?, shape, 0))).collect();
        while let Some((entry, shape, at)) = heads.pop_first() {
            let nodes: Vec<NodeView> =
                self.gained.iter().filter_map(|node| self.view(node)).filter(NodeView::is_open).collect();
            self.plan_and_start(&nodes, &[entry]);
            // Where one does not fit, none of its shape does.
            let placed = self.tasks.get(&entry.1).is_some_and(|task| task.node().is_some());
            if let Some(next) = waiting[shape].get(at + 1).filter(|_| placed) {
                heads.insert((*next, shape, at + 1));
            }
        }
    }

    /// Eligible tasks in order of rank, one list a shape, with the draft's changes.
    pub(super) fn waiting_by_shape(&self) -> Vec<Vec<(Rank, TaskId)>> {
        let mut by_shape: BTreeMap<&Shape, Vec<(Rank, TaskId)>> = BTreeMap::new();
        let fresh: Vec<(Shape, (Rank, TaskId))> =
            self.fresh.iter().map(|entry| (Shape::of(&self.tasks[&entry.1]), *entry)).collect();
        for (shape, waiting) in self.state.queue.shapes() {
            let still =
                waiting.iter().filter(|(_, id)| self.tasks.get(id).is_none_or(|task| task.is_eligible()));
            by_shape.entry(shape).or_default().extend(still);
        }
        for (shape, entry) in &fresh {
            let list = by_shape.entry(shape).or_default();
            list.push(*entry);
            list.sort_unstable();
        }
        by_shape.into_values().collect()
    }

    pub(super) fn place_fresh_tasks(&mut self) {
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
        nodes.extend(self.views.iter());
        let nodes: Vec<NodeView> = nodes.into_values().cloned().collect();
        self.plan_and_start(&nodes, &candidates);
    }

    /// Lets the scheduler place `tasks` on `nodes` and starts an attempt for each placement that holds up.
    pub(super) fn plan_and_start(&mut self, nodes: &[NodeView], tasks: &[(Rank, TaskId)]) {
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
        for Placement { task, node } in plan.placements {
            if !tasks.iter().any(|(_, id)| *id == task) {
                continue;
            }
            let Some(mut view) = self.view(&node) else { continue };
            let Ok(mut record) = self.known_task(task) else { continue };
            // A scheduler is a plug-in; a wrong one costs placements, not the invariants.
            if !record.is_eligible() || !view.accepts(&record.spec) {
                continue;
            }
            self.start_attempt(&mut record, &node);
            view.held.take(&record.spec.resources);
            view.tasks += 1;
            self.views.insert(node, view);
            self.tasks.insert(task, Arc::new(record));
        }
    }
}
