//! The default policy: filter, score, explain.
//!
//! Among the nodes that accept a task it takes the one whose free resources the task fragments least. The
//! utilisation of a node does not count: a score that rewards fullness sends a burst of tasks of one kind to
//! one node, where they use up one resource and strand the other.

use std::collections::BTreeMap;

use super::{
    NodeView, Objection, Pending, Placement, Plan, Quality, Requirements, Scheduler, Snapshot, Unplaced,
};
use crate::model::{Resources, Shortage, TaskId, TaskSpec};

/// Least growth of fragmentation. With `c` and `m` the free shares of cpu and memory of a node, its
/// fragmentation is `|c - m|`, which no balanced task can use, and a quarter of what `min(c, m)` is above a
/// multiple of an eighth, which no large task can use. The node on which the task adds least to that wins,
/// where the growth may be negative; then the one with fewer tasks, then the smaller id. It is the gradient
/// of Weng et al. ("Beware of Fragmentation", USENIX ATC 2023) for tasks whose distribution is not known.
///
/// Of the nodes that accept a task 8 are compared, searched from an index in the list that is derived from
/// the task's id: a cluster of thousands is not scanned for each task, at hardly any cost in quality
/// ("relaxed randomization": Verma et al., "Large-scale cluster management at Google with Borg", EuroSys
/// 2015, section 3.4).
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastFragmentation;

impl Scheduler for LeastFragmentation {
    fn name(&self) -> &'static str {
        "least-fragmentation"
    }

    fn plan(&self, snapshot: Snapshot<'_>, pending: &[Pending<'_>]) -> Plan {
        let mut nodes = Overlay::new(snapshot.nodes);
        let mut plan = Plan::default();
        let mut unplaced: Vec<&Pending<'_>> = Vec::new();
        for task in pending {
            let hopeless =
                unplaced.iter().rev().take(SHAPES_REMEMBERED).any(|other| same_needs(other.spec, task.spec));
            match if hopeless { None } else { best(&nodes, task) } {
                Some(at) => {
                    plan.placements
                        .push(Placement { task: task.task, node: snapshot.nodes[at].id().clone() });
                    if pending.len() > 1 || snapshot.explain {
                        nodes.take(at, task.spec);
                    }
                }
                None => unplaced.push(task),
            }
        }
        if snapshot.explain {
            plan.unplaced = unplaced.iter().map(|task| explain(&nodes, task)).collect();
            plan.quality = quality(&nodes, &unplaced);
        }
        plan
    }
}

/// Number of unplaced tasks that a later one is compared with before it is tried on every node.
const SHAPES_REMEMBERED: usize = 8;

/// Nodes of a snapshot with the placements of this plan so far.
struct Overlay<'a> {
    base: &'a [NodeView],
    changed: Vec<NodeView>,
    /// For each node of the snapshot, 1 + its index in `changed`, or 0. Empty as long as nothing is changed.
    places: Vec<usize>,
}

impl<'a> Overlay<'a> {
    fn new(base: &'a [NodeView]) -> Self {
        Self { base, changed: Vec::new(), places: Vec::new() }
    }

    fn len(&self) -> usize {
        self.base.len()
    }

    fn get(&self, at: usize) -> &NodeView {
        match self.places.get(at) {
            None | Some(0) => &self.base[at],
            Some(place) => &self.changed[place - 1],
        }
    }

    fn take(&mut self, at: usize, task: &TaskSpec) {
        if self.places.is_empty() {
            self.places = vec![0; self.base.len()];
        }
        if self.places[at] == 0 {
            self.changed.push(self.base[at].clone());
            self.places[at] = self.changed.len();
        }
        let view = &mut self.changed[self.places[at] - 1];
        view.held.take(&task.resources);
        view.tasks += 1;
    }

    fn iter(&self) -> impl Iterator<Item = &NodeView> {
        (0..self.len()).map(|at| self.get(at))
    }
}

fn same_needs(a: &TaskSpec, b: &TaskSpec) -> bool {
    a.kind() == b.kind() && a.resources == b.resources && a.constraints == b.constraints
}

/// Number of nodes that accept a task and are compared. More of them hardly find a better one, and take time
/// in proportion.
const COMPARED: usize = 8;

/// Best of the first [`COMPARED`] nodes that accept the task, searched from an index derived from its id, so
/// that no node is preferred for its name.
fn best(nodes: &Overlay<'_>, task: &Pending<'_>) -> Option<usize> {
    let (start, requirements) = (start(task.task, nodes.len()), Requirements::from(task.spec));
    let looked_at = (start..nodes.len()).chain(0..start);
    let accepting = looked_at.filter(|at| nodes.get(*at).meets(&requirements)).take(COMPARED);
    let scored = accepting.map(|at| {
        let node = nodes.get(at);
        (task.avoid == Some(node.id()), growth(node, &task.spec.resources), node.tasks, at)
    });
    scored.min().map(|(.., at)| at)
}

/// Index at which the search starts: the same on every machine, and another one for nearly every task.
fn start(task: TaskId, nodes: usize) -> usize {
    let id = u128::from_be_bytes(*task.as_bytes());
    let nodes = nodes.max(1) as u128;
    usize::try_from(id.wrapping_mul(MIXER) % nodes).expect("smaller than a usize")
}

/// Multiplier that spreads ids that lie close together: 2^128 divided by the golden ratio, and odd.
const MIXER: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// Fragmentation that the request, which fits, adds to that of the node; negative where it takes some away. A
/// task that asks for neither cpu nor memory adds nothing anywhere, so that only the number of tasks counts
/// and such tasks spread out.
fn growth(node: &NodeView, request: &Resources) -> i64 {
    let capacity = &node.record.spec.capacity;
    let (cpu, memory) = (node.held.free_cpu_millis(capacity), node.held.free_memory_bytes(capacity));
    let fragmentation = |cpu, memory| {
        let (cpu, memory) = (share(cpu, capacity.cpu_millis), share(memory, capacity.memory_bytes));
        (4 * cpu.abs_diff(memory) + cpu.min(memory) % (WHOLE / 8)).cast_signed()
    };
    fragmentation(cpu - request.cpu_millis, memory - request.memory_bytes) - fragmentation(cpu, memory)
}

/// Whole of a node, as a share.
const WHOLE: u64 = 1 << 20;

/// `free` as a share of `capacity`, of which [`WHOLE`] is all or nearly all. Integers, because replicas must
/// agree.
fn share(free: u64, capacity: u64) -> u64 {
    match capacity >> 40 {
        0 => (free << 20) / capacity.max(1),
        _ => free / (capacity >> 20),
    }
}

fn explain(nodes: &Overlay<'_>, task: &Pending<'_>) -> Unplaced {
    let mut objections = BTreeMap::new();
    let (mut never, mut hint) = (true, None::<(u64, String)>);
    for node in nodes.iter() {
        let found = node.objections(task.spec);
        never &= found.iter().any(Objection::is_lasting);
        if let Some((cost, text)) = smallest_change(node, &found)
            && hint.as_ref().is_none_or(|(known, _)| cost < *known)
        {
            hint = Some((cost, text));
        }
        for objection in &found {
            *objections.entry(objection.class()).or_insert(0) += 1;
        }
    }
    Unplaced { task: task.task, objections, nodes: nodes.len(), never, hint: hint.map(|(_, text)| text) }
}

/// Smallest change with which the task would fit on this node, and its share of the task's request. Only
/// amounts count: a submitter can request less.
fn smallest_change(node: &NodeView, objections: &[Objection]) -> Option<(u64, String)> {
    let (mut cost, mut less) = (0u64, Vec::new());
    for objection in objections {
        let (Objection::TooSmall { shortage } | Objection::Busy { shortage }) = objection else {
            return None;
        };
        let (needed, available) = match shortage {
            Shortage::Cpu { needed, available }
            | Shortage::Memory { needed, available }
            | Shortage::Device { needed, available, .. } => (needed, available),
            Shortage::Port { .. } => return None,
        };
        cost += share(needed - available, *needed);
        less.extend(shortage.less());
    }
    (!less.is_empty()).then(|| (cost, format!("on {} with {}", node.id(), less.join(" and "))))
}

fn quality(nodes: &Overlay<'_>, unplaced: &[&Pending<'_>]) -> Quality {
    let mut quality = Quality::default();
    let (mut free_cpu, mut free_memory) = (0u64, 0u64);
    for node in nodes.iter().filter(|node| node.is_open()) {
        let capacity = &node.record.spec.capacity;
        let (cpu, memory) = (node.held.free_cpu_millis(capacity), node.held.free_memory_bytes(capacity));
        match (cpu, memory) {
            (cpu, 0) => quality.stranded_cpu_millis = quality.stranded_cpu_millis.saturating_add(cpu),
            (0, memory) => {
                quality.stranded_memory_bytes = quality.stranded_memory_bytes.saturating_add(memory);
            }
            _ => {}
        }
        (free_cpu, free_memory) = (free_cpu.saturating_add(cpu), free_memory.saturating_add(memory));
    }
    for task in unplaced {
        let request = &task.spec.resources;
        if request.cpu_millis <= free_cpu && request.memory_bytes <= free_memory {
            free_cpu -= request.cpu_millis;
            free_memory -= request.memory_bytes;
            quality.fragmentation_gap_cpu_millis += request.cpu_millis;
        }
    }
    quality
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::model::{
        Held, IncarnationId, InstanceId, NodeId, NodeRecord, NodeSpec, Scheduling, Timestamp, WorkKind,
    };

    fn node(id: &str, capacity: Resources, held: &Resources) -> NodeView {
        let mut sum = Held::default();
        sum.take(held);
        let instance = InstanceId::from_bytes([0; 16]);
        let spec = NodeSpec {
            max_tasks: 10,
            labels: BTreeMap::from([("zone".into(), id.into())]),
            ..NodeSpec::new(NodeId::new(id).unwrap(), instance, capacity, [WorkKind::Program])
        };
        let incarnation = IncarnationId::from_bytes([0; 16]);
        NodeView {
            record: Arc::new(NodeRecord::new(spec, incarnation, Timestamp::ZERO)),
            held: sum,
            tasks: u32::from(!held.is_empty()),
        }
    }

    fn plan(nodes: &[NodeView], specs: &[TaskSpec]) -> Plan {
        let pending: Vec<_> =
            specs.iter().map(|spec| Pending { task: TaskId::generate(), spec, avoid: None }).collect();
        LeastFragmentation.plan(Snapshot { nodes, explain: true }, &pending)
    }

    fn homes(plan: &Plan) -> Vec<&str> {
        plan.placements.iter().map(|placement| placement.node.as_str()).collect()
    }

    const G: u64 = 1 << 30;

    #[test]
    fn a_started_eighth_is_used_up_before_another_one_is_started() {
        let nodes = [
            node("a", Resources::new(8000, 8 * G), &Resources::default()),
            node("b", Resources::new(8000, 8 * G), &Resources::new(4500, 4 * G + G / 2)),
        ];
        let task = TaskSpec::program("t", "x").cpu_millis(500).memory_mib(512);
        assert_eq!(homes(&plan(&nodes, &[task])), ["b"]);
    }

    #[test]
    fn a_burst_of_one_kind_strands_no_cpu() {
        // Fullness would send all four to one node, use up its memory and strand half of its cores.
        let nodes =
            ["a", "b", "c", "d"].map(|id| node(id, Resources::new(64_000, 256 * G), &Resources::default()));
        let tasks = vec![TaskSpec::program("t", "x").cpu_millis(8000).memory_mib(64 << 10); 4];
        let plan = plan(&nodes, &tasks);
        let homes: BTreeSet<&str> = homes(&plan).into_iter().collect();
        assert_eq!(homes.len(), 4, "{homes:?}");
    }

    #[test]
    fn prefers_a_balanced_rest_over_a_tighter_one() {
        // On "a" the task would use up the memory and strand three cores; on "b" it leaves some of both.
        let nodes = [
            node("a", Resources::new(4000, 2 * G), &Resources::default()),
            node("b", Resources::new(4000, 8 * G), &Resources::new(0, 4 * G)),
        ];
        let task = TaskSpec::program("t", "x").cpu_millis(1000).memory_mib(2048);
        assert_eq!(homes(&plan(&nodes, &[task])), ["b"]);
    }

    #[test]
    fn tasks_that_ask_for_nothing_spread_out() {
        let nodes = ["a", "b", "c"].map(|id| node(id, Resources::new(1000, G), &Resources::default()));
        let tasks = vec![TaskSpec::program("t", "x"); 6];
        assert_eq!(homes(&plan(&nodes, &tasks)), ["a", "b", "c", "a", "b", "c"]);
    }

    #[test]
    fn a_plan_counts_what_it_placed_before() {
        let nodes = [node("a", Resources::new(1000, G), &Resources::default())];
        let tasks = vec![TaskSpec::program("t", "x").cpu_millis(600); 2];
        let plan = plan(&nodes, &tasks);
        assert_eq!(plan.placements.len(), 1);
        let text = plan.unplaced[0].to_string();
        assert_eq!(
            text,
            "no node can take it now: 1 of 1: cpu is in use. It would fit on a with 0.2 cores less"
        );
        assert_eq!(plan.quality.fragmentation_gap_cpu_millis, 0);
    }

    #[test]
    fn the_last_failed_node_is_avoided_where_there_is_a_choice() {
        let nodes = ["a", "b"].map(|id| node(id, Resources::new(1000, G), &Resources::default()));
        let (spec, avoid) = (TaskSpec::program("t", "x"), NodeId::new("a").unwrap());
        let pending = [Pending { task: TaskId::generate(), spec: &spec, avoid: Some(&avoid) }];
        let both = LeastFragmentation.plan(Snapshot { nodes: &nodes, explain: false }, &pending);
        assert_eq!(homes(&both), ["b"]);
        let only = LeastFragmentation.plan(Snapshot { nodes: &nodes[..1], explain: false }, &pending);
        assert_eq!(homes(&only), ["a"]);
    }

    #[test]
    fn a_large_cluster_is_filled_from_many_places_and_its_last_free_node_is_found() {
        let mut nodes: Vec<NodeView> = (0..1000)
            .map(|n| node(&format!("n{n:04}"), Resources::new(1000, G), &Resources::default()))
            .collect();
        let spec = TaskSpec::program("t", "x").cpu_millis(100);
        let placed = |nodes: &[NodeView], id: u8| {
            let pending = [Pending { task: TaskId::from_bytes([id; 16]), spec: &spec, avoid: None }];
            LeastFragmentation.plan(Snapshot { nodes, explain: false }, &pending).placements[0].node.clone()
        };
        let found: BTreeSet<NodeId> = (0..10).map(|id| placed(&nodes, id)).collect();
        assert!(found.len() > 5, "{found:?}");
        let last = nodes[777].clone();
        for full in &mut nodes {
            full.tasks = full.record.spec.max_tasks;
        }
        nodes[777] = last;
        assert!((0..10).all(|id| placed(&nodes, id).as_str() == "n0777"));
    }

    #[test]
    fn each_reason_is_counted_by_nodes() {
        let mut nodes = vec![
            node("a", Resources::new(1000, G), &Resources::default()),
            node("b", Resources::new(8000, G), &Resources::new(8000, 0)),
            node("c", Resources::new(8000, 64 * G), &Resources::default()),
        ];
        let mut closed = NodeRecord::clone(&nodes[2].record);
        closed.scheduling = Scheduling::Cordoned;
        nodes[2].record = Arc::new(closed);
        let text = plan(&nodes, &[TaskSpec::program("t", "x").cpu_millis(2000).memory_mib(2048)]).unplaced[0]
            .to_string();
        assert_eq!(
            text,
            "no node can take it now: 1 of 3: cpu is in use; 1 of 3: not taking work (lost, cordoned or draining); \
             1 of 3: too small in cpu; 2 of 3: too small in memory. It would fit on a with 1 core less \
             and 1 GiB of memory less"
        );
    }

    #[test]
    fn a_task_that_no_node_can_ever_run_is_told_so() {
        let nodes = [node("a", Resources::new(1000, G), &Resources::default())];
        let plan =
            plan(&nodes, &[TaskSpec::image("t", "x"), TaskSpec::program("t", "x").on_label("zone", "b")]);
        assert!(plan.unplaced.iter().all(|unplaced| unplaced.never));
        assert!(
            plan.unplaced[0]
                .to_string()
                .starts_with("no node can ever run this: 1 of 1: does not run work of kind")
        );
        assert!(plan.unplaced[1].to_string().ends_with("does not meet constraint zone=b"));
    }
}
