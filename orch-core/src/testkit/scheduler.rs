//! Conformance suite of [`Scheduler`], run on many small random clusters. Failures contain the number of the
//! case, which reproduces it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    model::{
        Held, IncarnationId, InstanceId, NodeId, NodeRecord, NodeSpec, NodeState, Resources, Scheduling,
        TaskId, TaskSpec, Timestamp, WorkKind,
    },
    scheduler::{NodeView, Pending, Plan, Scheduler, Snapshot},
};

/// Runs every check on `cases` random clusters.
///
/// # Panics
/// When the policy breaks the contract.
pub fn run_all(scheduler: &dyn Scheduler, cases: u64) {
    for case in 0..cases {
        let mut random = Random(case);
        let nodes = random.nodes();
        let specs = random.specs();
        let pending: Vec<Pending<'_>> =
            specs.iter().map(|(task, spec)| Pending { task: *task, spec, avoid: None }).collect();
        let snapshot = Snapshot { nodes: &nodes, explain: true };
        let plan = scheduler.plan(snapshot, &pending);
        assert_eq!(
            plan,
            scheduler.plan(snapshot, &pending),
            "case {case}: the same question has two answers"
        );
        let left = placements_fit(case, &nodes, &specs, &plan);
        nothing_is_passed_over(case, &left, &specs, &plan);
        let quick = scheduler.plan(Snapshot { explain: false, ..snapshot }, &pending);
        assert_eq!(plan.placements, quick.placements, "case {case}: asking for reasons changes the plan");
    }
}

/// Each placed task was pending, is placed once, and its node accepts it beside the placements made there
/// before.
fn placements_fit(case: u64, nodes: &[NodeView], specs: &[(TaskId, TaskSpec)], plan: &Plan) -> Vec<NodeView> {
    let mut nodes = nodes.to_vec();
    let mut placed = BTreeSet::new();
    for placement in &plan.placements {
        let spec = specs.iter().find(|(task, _)| *task == placement.task).map(|(_, spec)| spec);
        let spec = spec.unwrap_or_else(|| panic!("case {case}: {placement:?} is of no pending task"));
        assert!(placed.insert(placement.task), "case {case}: {placement:?} is placed twice");
        let node = nodes.iter_mut().find(|node| *node.id() == placement.node);
        let node = node.unwrap_or_else(|| panic!("case {case}: {placement:?} names no node"));
        assert!(node.accepts(spec), "case {case}: {placement:?} does not fit: {:?}", node.objections(spec));
        node.held.take(&spec.resources);
        node.tasks += 1;
    }
    nodes
}

/// Each task that stays pending fits nowhere in the remaining resources, and comes with reasons.
fn nothing_is_passed_over(case: u64, left: &[NodeView], specs: &[(TaskId, TaskSpec)], plan: &Plan) {
    for (task, spec) in specs {
        let reasons = plan.unplaced.iter().find(|unplaced| unplaced.task == *task);
        if plan.placements.iter().any(|placement| placement.task == *task) {
            assert!(reasons.is_none(), "case {case}: {task} is placed and has reasons why not");
            continue;
        }
        let home = left.iter().find(|node| node.accepts(spec));
        assert!(
            home.is_none(),
            "case {case}: {task} stays pending although {} takes it",
            home.map_or("", |node| node.id().as_str())
        );
        let reasons =
            reasons.unwrap_or_else(|| panic!("case {case}: {task} is neither placed nor explained"));
        assert_eq!(reasons.nodes, left.len(), "case {case}: every node is looked at");
        assert!(
            left.is_empty() || !reasons.objections.is_empty(),
            "case {case}: {task} stays pending without a reason"
        );
    }
}

/// Pseudo-random numbers that are the same everywhere (Steele, Lea and Flood, "Fast splittable pseudorandom
/// number generators", OOPSLA 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn resources(&mut self, scale: u64) -> Resources {
        let mut resources = Resources::new(self.below(5) * 500 * scale, self.below(5) * (64 << 20) * scale);
        if self.below(4) == 0 {
            resources = resources.device("gpu", self.below(3));
        }
        resources
    }

    fn nodes(&mut self) -> Vec<NodeView> {
        (0..self.below(10)).map(|number| self.node(number)).collect()
    }

    fn node(&mut self, number: u64) -> NodeView {
        let capacity = self.resources(4);
        let mut held = Held::default();
        let request = self.resources(1).port(8000);
        let tasks = u32::from(held.fits(&capacity, &request));
        if tasks > 0 {
            held.take(&request);
        }
        let kind = if self.below(4) == 0 { WorkKind::Image } else { WorkKind::Program };
        let id = NodeId::new(format!("n{number}")).expect("a valid id");
        let spec = NodeSpec {
            max_tasks: u32::try_from(self.below(5)).expect("a small number"),
            labels: BTreeMap::from([("zone".into(), self.below(2).to_string())]),
            last_error: (self.below(12) == 0).then(|| "last_error".into()),
            ..NodeSpec::new(id, InstanceId::from_bytes([0; 16]), capacity, [kind])
        };
        let record = NodeRecord {
            state: if self.below(8) == 0 { NodeState::Lost } else { NodeState::Ready },
            scheduling: if self.below(8) == 0 { Scheduling::Cordoned } else { Scheduling::Open },
            ..NodeRecord::new(spec, IncarnationId::from_bytes([0; 16]), Timestamp::ZERO)
        };
        NodeView { record: Arc::new(record), held, tasks }
    }

    fn specs(&mut self) -> Vec<(TaskId, TaskSpec)> {
        (0..self.below(12))
            .map(|number| {
                let mut spec = match self.below(4) {
                    0 => TaskSpec::image("t", "i"),
                    _ => TaskSpec::program("t", "p"),
                };
                spec.resources = self.resources(1);
                if self.below(3) == 0 {
                    spec.resources =
                        spec.resources.port(8000 + u16::try_from(self.below(2)).expect("a small number"));
                }
                if self.below(3) == 0 {
                    spec = spec.on_label("zone", self.below(3).to_string());
                }
                (TaskId::from_bytes(u128::from(number).to_be_bytes()), spec)
            })
            .collect()
    }
}
