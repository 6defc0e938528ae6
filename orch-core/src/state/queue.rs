//! Tasks that could be placed now, grouped by what they need.
//!
//! Two tasks of one [`Shape`] fit on the same nodes. After every command each waiting shape has been tried on every node
//! and fits on none, so that a new task of a waiting shape need not be tried at all, and a node that gained capacity is
//! the only one to try the others on. This is what keeps a long queue cheap (equivalence classes: Verma et al., "Large-scale
//! cluster management at Google with Borg", EuroSys 2015, section 3.4).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::TaskRecord;
use crate::model::{Constraint, Resources, TaskId, WorkKind};

/// Everything that decides on which nodes a task fits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    kind: WorkKind,
    resources: Resources,
    constraints: Vec<Constraint>,
}

impl Shape {
    pub(super) fn of(task: &TaskRecord) -> Self {
        Self {
            kind: task.spec.kind(),
            resources: task.spec.resources.clone(),
            constraints: task.spec.constraints.clone(),
        }
    }
}

/// Who goes first: higher priority, then earlier submission.
pub(super) type Rank = (Reverse<i32>, u64);

pub(super) fn rank(task: &TaskRecord) -> Rank {
    (Reverse(task.spec.priority), task.seq)
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    shapes: BTreeMap<Shape, BTreeSet<(Rank, TaskId)>>,
}

impl Queue {
    pub(super) fn insert(&mut self, task: &TaskRecord) {
        self.shapes.entry(Shape::of(task)).or_default().insert((rank(task), task.id));
    }

    pub(super) fn remove(&mut self, task: &TaskRecord) {
        let shape = Shape::of(task);
        if let Some(waiting) = self.shapes.get_mut(&shape) {
            waiting.remove(&(rank(task), task.id));
            if waiting.is_empty() {
                self.shapes.remove(&shape);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    pub(super) fn waits(&self, shape: &Shape) -> bool {
        self.shapes.contains_key(shape)
    }

    pub(super) fn shapes(&self) -> impl Iterator<Item = (&Shape, &BTreeSet<(Rank, TaskId)>)> {
        self.shapes.iter()
    }
}
