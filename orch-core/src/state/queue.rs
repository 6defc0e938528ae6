//! Eligible tasks, grouped by their requirements.
//!
//! Two tasks of one [`Shape`] fit on the same nodes. After every command each waiting shape has been tried on
//! every node and fits on none, so that a new task of a waiting shape need not be tried at all, and a node
//! that gained capacity is the only one to try the others on. This is what keeps a long queue cheap
//! (equivalence classes: Verma et al., "Large-scale cluster management at Google with Borg", EuroSys 2015,
//! section 3.4).
//!
//! Shapes that differ in cpu and memory alone are one [`Class`]. For a node that gained capacity only the
//! classes that its labels admit are searched, and of those only the shapes that fit: the cost of a command
//! does not grow with the number of waiting shapes that do not.

mod class;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::class::Class;
use super::TaskRecord;
use crate::{
    model::{Constraint, NodeId, NodeSpec, Resources, TaskId, WorkKind},
    scheduler::{NodeView, Requirements},
};

/// Everything that determines the nodes on which a task fits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub(super) class: Arc<ClassKey>,
    pub(super) size: Size,
}

/// Common part of the shapes of a class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClassKey {
    kind: WorkKind,
    /// Devices and ports; no cpu and no memory.
    resources: Resources,
    constraints: Vec<Constraint>,
}

/// Cpu and memory, by which the shapes of a class differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size {
    pub(super) cpu_millis: u64,
    pub(super) memory_bytes: u64,
}

impl Size {
    fn of(resources: &Resources) -> Self {
        Self { cpu_millis: resources.cpu_millis, memory_bytes: resources.memory_bytes }
    }

    /// Free cpu and memory of a node.
    fn free(node: &NodeView) -> Self {
        let capacity = &node.record.spec.capacity;
        Self {
            cpu_millis: node.held.free_cpu_millis(capacity),
            memory_bytes: node.held.free_memory_bytes(capacity),
        }
    }

    fn fits(self, free: Self) -> bool {
        self.cpu_millis <= free.cpu_millis && self.memory_bytes <= free.memory_bytes
    }
}

impl Shape {
    pub(super) fn of(task: &TaskRecord) -> Self {
        let size = Size::of(&task.spec.resources);
        let (devices, ports) = (task.spec.resources.devices.clone(), task.spec.resources.ports.clone());
        let resources = Resources { devices, ports, ..Resources::default() };
        let (kind, constraints) = (task.spec.kind(), task.spec.constraints.clone());
        Self { class: Arc::new(ClassKey { kind, resources, constraints }), size }
    }

    /// Whether a task of this shape may run on the node and fits.
    pub(super) fn fits(&self, node: &NodeView) -> bool {
        self.class.is_admitted(node) && self.size.fits(Size::free(node))
    }
}

impl ClassKey {
    /// Whether the node takes tasks of this class that are small enough.
    fn is_admitted(&self, node: &NodeView) -> bool {
        node.meets(&Requirements {
            kind: self.kind,
            resources: &self.resources,
            constraints: &self.constraints,
        })
    }

    /// Property that a node must have for the class to be searched.
    fn pivot(&self) -> Pivot {
        let named = self.constraints.iter().find_map(|constraint| match constraint {
            Constraint::Node { node } => Some(Pivot::Node(node.clone())),
            _ => None,
        });
        let labelled = self.constraints.iter().find_map(|constraint| match constraint {
            Constraint::Equals { label, value } => Some(Pivot::Label(label.clone(), value.clone())),
            _ => None,
        });
        let device = self.resources.devices.iter().find(|(_, count)| **count > 0);
        let device = device.map(|(name, _)| Pivot::Device(name.clone()));
        named.or(labelled).or(device).unwrap_or(Pivot::Anything)
    }
}

/// Property of a node that a class requires, by which the class is indexed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pivot {
    Node(NodeId),
    Label(String, String),
    Device(String),
    Anything,
}

impl Pivot {
    /// All pivots that this node satisfies.
    fn all_of(node: &NodeSpec) -> impl Iterator<Item = Self> + '_ {
        let labels = node.labels.iter().map(|(label, value)| Self::Label(label.clone(), value.clone()));
        let devices = node.capacity.devices.keys().map(|name| Self::Device(name.clone()));
        [Self::Anything, Self::Node(node.id.clone())].into_iter().chain(labels).chain(devices)
    }

    fn is_of(&self, node: &NodeSpec) -> bool {
        match self {
            Self::Node(id) => node.id == *id,
            Self::Label(label, value) => node.labels.get(label) == Some(value),
            Self::Device(name) => node.capacity.devices.contains_key(name),
            Self::Anything => true,
        }
    }
}

/// Order of the queue: higher priority, then earlier submission.
pub(super) type Rank = (Reverse<i32>, u64);

pub(super) fn rank(task: &TaskRecord) -> Rank {
    (Reverse(task.spec.priority), task.seq)
}

/// The tasks of one shape in order of rank.
pub(super) type Waiting = BTreeSet<(Rank, TaskId)>;

#[derive(Debug, Default)]
pub(super) struct Queue {
    pivots: BTreeMap<Pivot, BTreeMap<Arc<ClassKey>, Class>>,
}

impl Queue {
    pub(super) fn insert(&mut self, task: &TaskRecord) {
        let Shape { class, size } = Shape::of(task);
        let classes = self.pivots.entry(class.pivot()).or_default();
        classes.entry(class).or_default().insert(size, (rank(task), task.id));
    }

    pub(super) fn remove(&mut self, task: &TaskRecord) {
        let Shape { class, size } = Shape::of(task);
        let pivot = class.pivot();
        let Some(classes) = self.pivots.get_mut(&pivot) else { return };
        let Some(shapes) = classes.get_mut(&class) else { return };
        shapes.remove(size, &(rank(task), task.id));
        if shapes.is_empty() {
            classes.remove(&class);
        }
        if classes.is_empty() {
            self.pivots.remove(&pivot);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pivots.is_empty()
    }

    /// Waiting tasks of this shape.
    pub(super) fn waiting(&self, shape: &Shape) -> Option<&Waiting> {
        self.pivots.get(&shape.class.pivot())?.get(&shape.class)?.get(shape.size)
    }

    pub(super) fn waits(&self, shape: &Shape) -> bool {
        self.waiting(shape).is_some()
    }

    /// The classes that this node may admit.
    fn classes_for<'a>(&'a self, node: &'a NodeSpec) -> impl Iterator<Item = (&'a Arc<ClassKey>, &'a Class)> {
        // Few pivots are compared; among many, those of the node are looked up.
        const FEW: usize = 8;
        let few = self.pivots.len() <= FEW;
        let compared = few.then(|| self.pivots.iter().filter(|(pivot, _)| pivot.is_of(node)));
        let looked_up = (!few).then(|| Pivot::all_of(node).filter_map(|pivot| self.pivots.get(&pivot)));
        let compared = compared.into_iter().flatten().map(|(_, classes)| classes);
        compared.chain(looked_up.into_iter().flatten()).flatten()
    }

    /// The first task, in order of rank, of a shape that fits on the node and is not to be skipped.
    pub(super) fn first_fit(
        &self,
        node: &NodeView,
        skip: &BTreeSet<Shape>,
    ) -> Option<((Rank, TaskId), Shape)> {
        let free = Size::free(node);
        let mut first: Option<((Rank, TaskId), Shape)> = None;
        for (class, shapes) in self.classes_for(&node.record.spec) {
            let before = first.as_ref().map(|(entry, _)| *entry);
            // Cheaper than the check whether the node admits the class.
            if before.is_some_and(|before| shapes.first() > before) || !class.is_admitted(node) {
                continue;
            }
            let skipped = |size| skip.contains(&Shape { class: class.clone(), size });
            if let Some((entry, size)) = shapes.first_fit(free, before, skipped) {
                first = Some((entry, Shape { class: class.clone(), size }));
            }
        }
        first
    }
}
