//! The [`Scheduler`] trait: assignment of tasks to nodes.

mod filters;
mod guarded;
mod least_fragmentation;

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::model::{Constraint, Held, NodeId, NodeRecord, Shortage, TaskId, TaskSpec, WorkKind};

pub(crate) use filters::Requirements;
pub(crate) use guarded::Guarded;
pub use least_fragmentation::LeastFragmentation;

/// Policy that decides placements. The contract is between a policy and the functional core, which calls it
/// inside `ClusterState::decide` on every replica.
///
/// A policy MUST:
/// - be a pure function: same input, same plan, on every machine (no clock, no randomness, no floats, no
///   iteration over hash maps);
/// - place a task only where it fits beside what the node holds and what this plan placed there before;
/// - judge each task by its requirements and the nodes of the snapshot, not by the time of day: the core asks
///   again only when capacity was gained;
/// - give, where [`Snapshot::explain`] asks for it, every reason by class of nodes for each task that stays
///   pending.
pub trait Scheduler: Send + Sync + fmt::Debug + 'static {
    /// Short name for messages: `least-fragmentation`.
    ///
    /// ```
    /// # use orch_core::{model::*, scheduler::*};
    /// assert_eq!(LeastFragmentation.name(), "least-fragmentation");
    /// ```
    fn name(&self) -> &'static str;

    /// Places as many of `pending` as fit; they are given in the order in which tasks should go first.
    ///
    /// ```
    /// # use orch_core::{model::*, scheduler::*};
    /// # let instance = InstanceId::from_bytes([0; 16]);
    /// # let capacity = Resources::new(1000, 1 << 30);
    /// # let spec = NodeSpec::new(NodeId::new("n").unwrap(), instance, capacity, [WorkKind::Program]);
    /// # let record = NodeRecord::new(spec, IncarnationId::from_bytes([0; 16]), Timestamp::ZERO);
    /// # let nodes = [NodeView { record: std::sync::Arc::new(record), held: Held::default(), tasks: 0 }];
    /// // One node with one core, and two tasks that ask for most of it.
    /// let spec = TaskSpec::program("example", "true").cpu_millis(600);
    /// let pending = |id| Pending { task: TaskId::from_bytes([id; 16]), spec: &spec, avoid: None };
    /// let pending = [pending(1), pending(2)];
    /// let plan = LeastFragmentation.plan(Snapshot { nodes: &nodes, explain: true }, &pending);
    /// assert_eq!(plan.placements[0].node.as_str(), "n");
    /// assert!(plan.unplaced[0].to_string().contains("cpu is in use"));
    /// ```
    fn plan(&self, snapshot: Snapshot<'_>, pending: &[Pending<'_>]) -> Plan;
}

/// Nodes that a plan may use, in order of their ids.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    /// All nodes, schedulable or not; a plan must use [`NodeView::is_open`] ones only.
    pub nodes: &'a [NodeView],
    /// Whether reasons and quality are needed. The functional core, which plans for every command, does not
    /// read them; `explain` does.
    pub explain: bool,
}

/// Node as seen by a scheduler. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Replicated record of the node.
    pub record: Arc<NodeRecord>,
    /// Resources held by its tasks.
    pub held: Held,
    /// Number of its tasks.
    pub tasks: u32,
}

impl NodeView {
    /// Id of the node.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.record.spec.id
    }

    /// Whether new work may be placed here.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.record.is_open()
    }

    /// Whether `task` may run here and fits. Allocates nothing.
    #[must_use]
    pub fn accepts(&self, task: &TaskSpec) -> bool {
        self.meets(&task.into())
    }

    /// Whether the node's labels meet `constraint`.
    #[must_use]
    pub fn satisfies(&self, constraint: &Constraint) -> bool {
        let labels = &self.record.spec.labels;
        match constraint {
            Constraint::Equals { label, value } => labels.get(label) == Some(value),
            Constraint::NotEquals { label, value } => labels.get(label) != Some(value),
            Constraint::Exists { label } => labels.contains_key(label),
            Constraint::Node { node } => self.id() == node,
        }
    }
}

/// A task that waits for a placement.
#[derive(Clone, Copy, Debug)]
pub struct Pending<'a> {
    /// Id of the task.
    pub task: TaskId,
    /// Spec of the task.
    pub spec: &'a TaskSpec,
    /// Node on which its last attempt failed; another one is preferred if there is a choice.
    pub avoid: Option<&'a NodeId>,
}

/// Decision of a scheduler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Placements to start.
    pub placements: Vec<Placement>,
    /// Placed tasks that must be preempted. The engine does not carry these out yet.
    pub preemptions: Vec<TaskId>,
    /// Placed tasks that should move to another node. The engine does not carry these out yet.
    pub moves: Vec<Placement>,
    /// Tasks that stay pending, with the reasons.
    pub unplaced: Vec<Unplaced>,
    /// Quality of the plan.
    pub quality: Quality,
}

/// Assignment of a task to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Id of the task.
    pub task: TaskId,
    /// Id of the node.
    pub node: NodeId,
}

/// Reasons for which a task stays pending.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unplaced {
    /// Id of the task.
    pub task: TaskId,
    /// Number of nodes by objection. A node with two objections is counted under both.
    pub objections: BTreeMap<String, usize>,
    /// Number of nodes that were checked.
    pub nodes: usize,
    /// Whether no node could accept the task even if it were empty and schedulable: the task waits for
    /// another node or another spec.
    pub never: bool,
    /// Smallest change with which it would fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.nodes, self.never) {
            (0, _) => return f.write_str("there are no nodes yet"),
            (_, true) => f.write_str("no node can ever run this")?,
            (_, false) => f.write_str("no node can take it now")?,
        }
        for (at, (objection, count)) in self.objections.iter().enumerate() {
            let mark = if at == 0 { ": " } else { "; " };
            write!(f, "{mark}{count} of {}: {objection}", self.nodes)?;
        }
        if let Some(hint) = &self.hint {
            write!(f, ". It would fit {hint}")?;
        }
        Ok(())
    }
}

/// Reason for which a node cannot accept a task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Objection {
    /// The node is lost, cordoned or draining.
    Closed,
    /// The node reports an error and accepts no new work.
    Trouble {
        /// Last error, as the node reports it.
        problem: String,
    },
    /// The node's runtime does not accept this kind of work.
    Kind {
        /// Kind that the task needs.
        kind: WorkKind,
    },
    /// The node's labels do not satisfy a constraint.
    Constraint {
        /// The constraint that is not satisfied.
        constraint: Constraint,
    },
    /// The node has its maximum number of tasks.
    Full {
        /// Maximum number of tasks of the node.
        max_tasks: u32,
    },
    /// The node would be too small even if it were empty.
    TooSmall {
        /// The missing resource.
        shortage: Shortage,
    },
    /// Other tasks hold the resources that are needed.
    Busy {
        /// The missing resource.
        shortage: Shortage,
    },
}

impl Objection {
    /// Whether the objection remains when the node is empty and schedulable.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Closed | Self::Trouble { .. } | Self::Busy { .. } => false,
            Self::Full { max_tasks } => *max_tasks == 0,
            Self::Kind { .. } | Self::Constraint { .. } | Self::TooSmall { .. } => true,
        }
    }

    /// The objection without amounts, so that nodes that share it are counted together.
    #[must_use]
    pub fn class(&self) -> String {
        let resource = |shortage: &Shortage| match shortage {
            Shortage::Cpu { .. } => "cpu".to_owned(),
            Shortage::Memory { .. } => "memory".to_owned(),
            Shortage::Device { name, .. } => format!("device {name:?}"),
            Shortage::Port { port } => format!("host port {port}"),
        };
        match self {
            Self::Closed => "not taking work (lost, cordoned or draining)".into(),
            Self::Trouble { problem } => format!("not taking work ({problem})"),
            Self::Kind { kind } => format!("does not run work of kind {kind:?}", kind = kind.to_string()),
            Self::Constraint { constraint } => format!("does not meet constraint {constraint}"),
            Self::Full { .. } => "has as many tasks as it takes".into(),
            Self::TooSmall { shortage } => format!("too small in {}", resource(shortage)),
            Self::Busy { shortage } => format!("{} is in use", resource(shortage)),
        }
    }
}

/// Quality of a plan; integers, so that replicas agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Cpu of schedulable nodes that nothing can use because the same node has no memory left, in thousandths
    /// of a core.
    pub stranded_cpu_millis: u64,
    /// Memory of schedulable nodes that nothing can use because the same node has no cpu left, in bytes.
    pub stranded_memory_bytes: u64,
    /// Pending demand that would fit into the sum of all free resources, but does not fit node by node, in
    /// thousandths of a core: the gap to a lower bound on what any plan must leave.
    pub fragmentation_gap_cpu_millis: u64,
}
