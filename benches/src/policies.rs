//! Policies that the default is compared with. Each places one task at a time and gives no reasons.

use orch_core::{
    model::Resources,
    scheduler::{LeastFragmentation, NodeView, Pending, Placement, Plan, Scheduler, Snapshot},
};

/// Policy that compares some of the nodes that accept a task, and takes the one with the smallest score.
#[derive(Clone, Debug)]
pub struct Policy {
    name: &'static str,
    /// Number of accepting nodes that it compares, from an index in the list that is derived from the task's
    /// id.
    compared: usize,
    score: Score,
}

#[derive(Clone, Debug)]
enum Score {
    /// First node that is found.
    None,
    /// Fuller node, with a penalty on imbalance: `(c + m) / 2 + |c - m|` of the free part.
    Waste,
    /// Smallest angle between the request and the free part (Panigrahy et al., "Heuristics for vector bin
    /// packing", 2011).
    Angle,
    /// Smallest growth of `|c - m|` alone.
    Imbalance,
    /// Smallest growth of the free part that stays unused when a node is filled with tasks of one shape, on
    /// average over all demand (after Weng et al., "Beware of Fragmentation", USENIX ATC 2023).
    Fragmentation(Vec<(Resources, f64)>),
}

/// Policies by name, with the default among them. `demand` is the input of one of them: shapes with their
/// frequencies.
#[must_use]
pub fn all(demand: Vec<(Resources, f64)>) -> Vec<Box<dyn Scheduler>> {
    let policy = |name, compared, score| Box::new(Policy { name, compared, score }) as Box<dyn Scheduler>;
    vec![
        policy("random", 1, Score::None),
        policy("first fit", usize::MAX, Score::None),
        policy("best fit of 32 (default before)", 32, Score::Waste),
        policy("two random ones by waste", 2, Score::Waste),
        policy("smallest angle of 32", 32, Score::Angle),
        policy("least imbalance of 8", 8, Score::Imbalance),
        Box::new(LeastFragmentation),
        policy("fragmentation of 8, demand known", 8, Score::Fragmentation(demand)),
    ]
}

impl Scheduler for Policy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn plan(&self, snapshot: Snapshot<'_>, pending: &[Pending<'_>]) -> Plan {
        let Some(task) = pending.first() else { return Plan::default() };
        let nodes = snapshot.nodes;
        let id = u128::from_be_bytes(*task.task.as_bytes());
        let start = match self.compared {
            usize::MAX => 0,
            _ => usize::try_from(id % nodes.len().max(1) as u128).unwrap_or_default(),
        };
        let accepting = nodes[start..].iter().chain(&nodes[..start]).filter(|node| node.accepts(task.spec));
        let compared = match self.score {
            Score::None => 1,
            _ => self.compared,
        };
        let best = accepting.take(compared).min_by(|a, b| {
            let score = |node| self.score.of(node, &task.spec.resources);
            score(a).total_cmp(&score(b))
        });
        let placement = |node: &NodeView| Placement { task: task.task, node: node.id().clone() };
        Plan { placements: best.map(placement).into_iter().collect(), ..Plan::default() }
    }
}

impl Score {
    fn of(&self, node: &NodeView, request: &Resources) -> f64 {
        let capacity = &node.record.spec.capacity;
        let share = |cpu, memory| {
            (cpu as f64 / capacity.cpu_millis as f64, memory as f64 / capacity.memory_bytes as f64)
        };
        let before = share(node.held.free_cpu_millis(capacity), node.held.free_memory_bytes(capacity));
        let asked = share(request.cpu_millis, request.memory_bytes);
        let after = (before.0 - asked.0, before.1 - asked.1);
        match self {
            Self::None => 0.0,
            Self::Waste => f64::midpoint(after.0, after.1) + (after.0 - after.1).abs(),
            Self::Angle => {
                let length = before.0.hypot(before.1) * asked.0.hypot(asked.1);
                -(before.0 * asked.0 + before.1 * asked.1) / length.max(f64::MIN_POSITIVE)
            }
            // Differences below rounding errors count as none.
            Self::Imbalance => (((after.0 - after.1).abs() - (before.0 - before.1).abs()) * 1e9).round(),
            Self::Fragmentation(demand) => {
                let shapes: Vec<_> = demand
                    .iter()
                    .map(|(shape, often)| (share(shape.cpu_millis, shape.memory_bytes), *often))
                    .collect();
                ((unused(after, &shapes) - unused(before, &shapes)) * 1e9).round()
            }
        }
    }
}

/// Free part that stays unused when it is filled with one shape, on average over the demand.
fn unused(free: (f64, f64), shapes: &[((f64, f64), f64)]) -> f64 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for ((cpu, memory), often) in shapes {
        let size = cpu.max(*memory);
        let fit = (free.0 / cpu + 1e-9).floor().min((free.1 / memory + 1e-9).floor());
        sum += often * size * (free.0.max(free.1) - fit * size).max(0.0);
        weights += often * size;
    }
    sum / weights
}
