//! Conditions under which a node takes a task. There is one list of them: the check stops at the first that
//! does not hold, and the explanation collects all that do not.

use std::ops::ControlFlow;

use super::{NodeView, Objection};
use crate::model::{Constraint, Held, Resources, Shortage, TaskSpec, WorkKind};

/// Properties of a task that decide where it may run.
#[derive(Debug)]
pub(crate) struct Requirements<'a> {
    pub(crate) kind: WorkKind,
    pub(crate) resources: &'a Resources,
    pub(crate) constraints: &'a [Constraint],
}

impl<'a> From<&'a TaskSpec> for Requirements<'a> {
    fn from(task: &'a TaskSpec) -> Self {
        Self { kind: task.kind(), resources: &task.resources, constraints: &task.constraints }
    }
}

impl NodeView {
    /// Whether a task with these requirements may run here and fits. Allocates nothing.
    #[inline]
    pub(crate) fn meets(&self, task: &Requirements<'_>) -> bool {
        self.filter(task, |_| ControlFlow::Break(())).is_continue()
    }

    /// Every objection to placing `task` here now; empty when it can be placed.
    #[must_use]
    pub fn objections(&self, task: &TaskSpec) -> Vec<Objection> {
        let mut objections = Vec::new();
        let all = self.filter(&task.into(), |objection| {
            objections.push(objection());
            ControlFlow::Continue(())
        });
        debug_assert!(all.is_continue());
        objections
    }

    /// Goes through all conditions, cheap and selective ones first, and hands over the objection of each that
    /// does not hold, until it is told to break.
    #[inline]
    fn filter(
        &self,
        task: &Requirements<'_>,
        mut object: impl FnMut(&dyn Fn() -> Objection) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let spec = &self.record.spec;
        if !self.is_open() {
            object(&|| match &spec.last_error {
                Some(problem) => Objection::Trouble { problem: problem.clone() },
                None => Objection::Closed,
            })?;
        }
        if self.tasks >= spec.max_tasks {
            object(&|| Objection::Full { max_tasks: spec.max_tasks })?;
        }
        self.held.shortage(&spec.capacity, task.resources, |shortage| {
            object(&|| {
                let shortage = shortage();
                let empty = Held::default().shortages(&spec.capacity, task.resources);
                match empty.iter().any(|other| same_resource(other, &shortage)) {
                    true => Objection::TooSmall { shortage },
                    false => Objection::Busy { shortage },
                }
            })
        })?;
        if !task.kind.is_taken_by(&spec.kinds) {
            object(&|| Objection::Kind { kind: task.kind })?;
        }
        for constraint in task.constraints {
            if !self.satisfies(constraint) {
                object(&|| Objection::Constraint { constraint: constraint.clone() })?;
            }
        }
        ControlFlow::Continue(())
    }
}

fn same_resource(a: &Shortage, b: &Shortage) -> bool {
    match (a, b) {
        (Shortage::Device { name: a, .. }, Shortage::Device { name: b, .. }) => a == b,
        (Shortage::Port { port: a }, Shortage::Port { port: b }) => a == b,
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::*;
    use crate::model::{
        IncarnationId, InstanceId, NodeId, NodeRecord, NodeSpec, NodeState, Scheduling, Timestamp,
    };

    fn resources() -> impl Strategy<Value = Resources> {
        (0..3u64, 0..3u64, option::of(0..3u64), option::of(80..82u16)).prop_map(
            |(cpu, memory, gpus, port)| {
                let amounts = Resources::new(cpu, memory);
                let with_gpus = gpus.map_or(amounts.clone(), |gpus| amounts.device("gpu", gpus));
                port.map_or(with_gpus.clone(), |port| with_gpus.port(port))
            },
        )
    }

    fn constraint() -> impl Strategy<Value = Constraint> {
        let (label, value) = ("zone".to_owned(), "a".to_owned());
        select(vec![
            Constraint::Equals { label: label.clone(), value: value.clone() },
            Constraint::NotEquals { label: label.clone(), value },
            Constraint::Exists { label },
            Constraint::Node { node: NodeId::new("n").unwrap() },
            Constraint::Node { node: NodeId::new("other").unwrap() },
        ])
    }

    fn kind() -> impl Strategy<Value = WorkKind> {
        select(vec![WorkKind::Program, WorkKind::Image, WorkKind::PlainImage])
    }

    fn node() -> impl Strategy<Value = NodeView> {
        let state = select(vec![NodeState::Ready, NodeState::Ready, NodeState::Lost]);
        let scheduling = select(vec![Scheduling::Open, Scheduling::Open, Scheduling::Cordoned]);
        let zone = option::of(select(vec!["a", "b"]));
        let own =
            (resources(), resources(), vec(kind(), 1..3), zone, option::weighted(0.2, Just("disk full")));
        (state, scheduling, own, 0..3u32, 0..3u32).prop_map(
            |(state, scheduling, (capacity, taken, kinds, zone, last_error), max_tasks, tasks)| {
                let capacity = Resources { ports: Vec::new(), ..capacity };
                let instance = InstanceId::from_bytes([0; 16]);
                let spec = NodeSpec {
                    max_tasks,
                    labels: zone.map(|zone| ("zone".to_owned(), zone.to_owned())).into_iter().collect(),
                    last_error: last_error.map(Into::into),
                    ..NodeSpec::new(NodeId::new("n").unwrap(), instance, capacity, kinds)
                };
                let incarnation = IncarnationId::from_bytes([0; 16]);
                let record = NodeRecord::new(spec, incarnation, Timestamp::ZERO);
                let mut held = Held::default();
                held.take(&taken);
                NodeView { record: Arc::new(NodeRecord { state, scheduling, ..record }), held, tasks }
            },
        )
    }

    /// The rule in other words.
    fn fits(node: &NodeView, task: &Requirements<'_>) -> bool {
        let (spec, labels) = (&node.record.spec, &node.record.spec.labels);
        node.record.is_open()
            && node.tasks < spec.max_tasks
            && node.held.fits(&spec.capacity, task.resources)
            && (spec.kinds.contains(&task.kind)
                || task.kind == WorkKind::PlainImage && spec.kinds.contains(&WorkKind::Image))
            && task.constraints.iter().all(|constraint| match constraint {
                Constraint::Equals { label, value } => labels.get(label).is_some_and(|is| is == value),
                Constraint::NotEquals { label, value } => labels.get(label).is_none_or(|is| is != value),
                Constraint::Exists { label } => labels.get(label).is_some(),
                Constraint::Node { node } => node.as_str() == "n",
            })
    }

    proptest! {
        #[test]
        fn a_node_takes_exactly_what_it_has_no_objections_to(
            node in node(),
            program in any::<bool>(),
            resources in resources(),
            constraints in vec(constraint(), 0..3),
        ) {
            let task = if program { TaskSpec::program("t", "x") } else { TaskSpec::image("t", "x") };
            let task = TaskSpec { resources, constraints, ..task };
            let objections = node.objections(&task);
            prop_assert_eq!(node.accepts(&task), objections.is_empty(), "{:?}", objections);
            prop_assert_eq!(node.accepts(&task), fits(&node, &(&task).into()));
            // An objection lasts exactly when an empty and open node has it as well.
            let empty = NodeView {
                record: Arc::new(NodeRecord {
                    state: NodeState::Ready,
                    scheduling: Scheduling::Open,
                    spec: NodeSpec { last_error: None, ..node.record.spec.clone() },
                    ..NodeRecord::clone(&node.record)
                }),
                held: Held::default(),
                tasks: 0,
            };
            prop_assert_eq!(empty.accepts(&task), !objections.iter().any(Objection::is_lasting));
        }
    }
}
