//! Shares of demand that each policy rejects: `packing fill|churn first|last [windows] [nodes,nodes,...]`.
//!
//! `fill`: tasks arrive and stay, until they request all of the cluster but its headroom. `churn`: tasks also
//! end; as many are in flight, placed or not, as request all but the headroom, and arrivals meanwhile are
//! counted. Each window begins at another arrival. A policy is chosen on `first` and confirmed on `last`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    process::ExitCode,
    sync::Arc,
};

use orch_benches::{
    Failure,
    arrivals::{Arrival, Kind, Part, Random, load},
    exit_code, policies,
};
use orch_core::{
    model::{
        Held, IncarnationId, InstanceId, NodeId, NodeRecord, NodeSpec, Resources, TaskId, TaskSpec,
        Timestamp, WorkKind,
    },
    scheduler::{NodeView, Pending, Scheduler, Snapshot},
};

/// Cores and GiB of the nodes of a cluster. All fit the largest request, 16 cores and 112 GiB, or for all but
/// the rarest.
const CLUSTERS: [&[(u64, u64)]; 8] = [
    &[(64, 224)],
    &[(64, 160)],
    &[(64, 128)],
    &[(46, 120)],
    &[(96, 256)],
    &[(128, 320)],
    &[(40, 144)],
    &[(62, 160), (30, 120)],
];
const HEADROOMS: [u64; 3] = [2, 4, 8];

fn main() -> ExitCode {
    exit_code(measure())
}

fn measure() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize| args.get(at).map(String::as_str);
    let (kind, part) = match (word(0), word(1)) {
        (Some("fill"), Some("first")) => (Kind::Fill, Part::First),
        (Some("fill"), Some("last")) => (Kind::Fill, Part::Last),
        (Some("churn"), Some("first")) => (Kind::Churn, Part::First),
        (Some("churn"), Some("last")) => (Kind::Churn, Part::Last),
        _ => return Err("usage: packing fill|churn first|last [windows] [nodes,nodes,...]".into()),
    };
    let windows: u64 = word(2).unwrap_or("20").parse()?;
    let sizes: Vec<usize> =
        word(3).unwrap_or("10,100").split(',').map(str::parse).collect::<Result<_, _>>()?;
    let (arrivals, source) = load(kind, part)?;
    say(&format!(
        "{} arrivals: {source}; {windows} windows for each of {} clusters",
        arrivals.len(),
        CLUSTERS.len()
    ));
    say(
        "refused, % of demand (± deviation between windows) / % of tasks; beside random in the worst cluster",
    );
    for nodes in sizes {
        for headroom in HEADROOMS {
            say(&format!("\n{nodes} nodes, {headroom} % headroom"));
            let setting = Setting { kind, arrivals: &arrivals, nodes, headroom, windows };
            table(&setting);
        }
    }
    Ok(())
}

struct Setting<'a> {
    kind: Kind,
    arrivals: &'a [Arrival],
    nodes: usize,
    headroom: u64,
    windows: u64,
}

fn table(setting: &Setting<'_>) {
    let mut random: Vec<f64> = Vec::new();
    for policy in policies::all(demand(setting.arrivals)) {
        let of_clusters: Vec<Vec<Refused>> =
            CLUSTERS.iter().map(|shapes| windows(setting, shapes, policy.as_ref())).collect();
        let means: Vec<f64> =
            of_clusters.iter().map(|windows| mean(windows.iter().map(|w| w.demand))).collect();
        if random.is_empty() {
            random.clone_from(&means);
        }
        // Less than a thousandth is not significant for a policy.
        let beside = means.iter().zip(&random).map(|(mean, random)| mean.max(0.1) / random.max(0.1));
        let worst = beside.fold(0.0, f64::max);
        let spread = mean(of_clusters.iter().map(|windows| deviation(windows.iter().map(|w| w.demand))));
        let tasks = mean(of_clusters.iter().flatten().map(|window| window.tasks));
        say(&format!(
            "  {:34} {:5.2} (± {spread:4.2}) / {tasks:5.2}; worst {worst:5.2}",
            policy.name(),
            mean(means.iter().copied())
        ));
    }
}

/// Shapes of the arrivals, with their frequencies.
fn demand(arrivals: &[Arrival]) -> Vec<(Resources, f64)> {
    let mut counts: BTreeMap<&Resources, u32> = BTreeMap::new();
    for arrival in arrivals {
        *counts.entry(&arrival.request).or_default() += 1;
    }
    counts.into_iter().map(|(shape, count)| (shape.clone(), f64::from(count))).collect()
}

/// Shares of demand that were not placed, in per cent.
struct Refused {
    demand: f64,
    tasks: f64,
}

fn windows(setting: &Setting<'_>, shapes: &[(u64, u64)], policy: &dyn Scheduler) -> Vec<Refused> {
    let mut begins = Random(setting.headroom);
    let begin = |_| usize::try_from(begins.below(setting.arrivals.len() as u64)).unwrap_or_default();
    let begins: Vec<usize> = (0..setting.windows).map(begin).collect();
    let window = |begin: &usize| Cluster::new(setting, shapes, *begin).run(setting, *begin, policy);
    begins.iter().map(window).collect()
}

struct Cluster {
    nodes: Vec<NodeView>,
    capacity: (f64, f64),
    /// Demand of all tasks in flight, placed or not.
    asked: (f64, f64),
    ids: Random,
    /// End time of a task, its index in the list of arrivals, and its node if it has one.
    ends: BinaryHeap<Reverse<(u64, usize, Option<usize>)>>,
}

impl Cluster {
    fn new(setting: &Setting<'_>, shapes: &[(u64, u64)], begin: usize) -> Self {
        let nodes: Vec<NodeView> =
            (0..setting.nodes).map(|number| node(number, shapes[number % shapes.len()])).collect();
        let capacity = nodes.iter().map(|node| amounts(&node.record.spec.capacity));
        let capacity = capacity.fold((0.0, 0.0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
        Self { nodes, capacity, asked: (0.0, 0.0), ids: Random(begin as u64), ends: BinaryHeap::new() }
    }

    fn run(mut self, setting: &Setting<'_>, begin: usize, policy: &dyn Scheduler) -> Refused {
        let bound = 1.0 - setting.headroom as f64 / 100.0;
        let (mut now, mut count) = (0, Count::default());
        let mut full_after = None;
        for number in 0.. {
            let at = (begin + number) % setting.arrivals.len();
            let arrival = &setting.arrivals[at];
            while self.share_with(&arrival.request) > bound {
                if setting.kind == Kind::Fill {
                    return count.refused();
                }
                if full_after.is_none() {
                    full_after = Some(number);
                    count = Count::default();
                }
                now = self.end_next(setting.arrivals).max(now);
            }
            // Four times as many arrivals as fill the cluster.
            if full_after.is_some_and(|full| number > 5 * full) {
                break;
            }
            let home = self.place(&arrival.request, policy);
            let asked = amounts(&arrival.request);
            self.asked = (self.asked.0 + asked.0, self.asked.1 + asked.1);
            count.add((asked.0 / self.capacity.0).max(asked.1 / self.capacity.1), home.is_some());
            self.ends.push(Reverse((now + arrival.duration.as_secs(), at, home)));
        }
        count.refused()
    }

    /// Demand including this request, as a share of the scarcer resource.
    fn share_with(&self, request: &Resources) -> f64 {
        let more = amounts(request);
        ((self.asked.0 + more.0) / self.capacity.0).max((self.asked.1 + more.1) / self.capacity.1)
    }

    fn place(&mut self, request: &Resources, policy: &dyn Scheduler) -> Option<usize> {
        let id = u128::from(self.ids.any()) << 64 | u128::from(self.ids.any());
        let mut spec = TaskSpec::program("t", "x");
        spec.resources = request.clone();
        let pending = [Pending { task: TaskId::from_bytes(id.to_be_bytes()), spec: &spec, avoid: None }];
        let plan = policy.plan(Snapshot { nodes: &self.nodes, explain: false }, &pending);
        let home = &plan.placements.first()?.node;
        let at = self.nodes.binary_search_by(|node| node.id().cmp(home)).ok()?;
        self.nodes[at].held.take(request);
        self.nodes[at].tasks += 1;
        Some(at)
    }

    /// Ends the task with the earliest end time, and returns that time.
    fn end_next(&mut self, arrivals: &[Arrival]) -> u64 {
        let Some(Reverse((time, at, home))) = self.ends.pop() else { return 0 };
        let request = &arrivals[at].request;
        if let Some(home) = home {
            self.nodes[home].held.release(request);
            self.nodes[home].tasks -= 1;
        }
        let asked = amounts(request);
        self.asked = (self.asked.0 - asked.0, self.asked.1 - asked.1);
        time
    }
}

#[derive(Default)]
struct Count {
    demand: f64,
    refused: f64,
    tasks: u32,
    refused_tasks: u32,
}

impl Count {
    fn add(&mut self, share: f64, placed: bool) {
        self.demand += share;
        self.tasks += 1;
        if !placed {
            self.refused += share;
            self.refused_tasks += 1;
        }
    }

    fn refused(&self) -> Refused {
        Refused {
            demand: 100.0 * self.refused / self.demand.max(f64::MIN_POSITIVE),
            tasks: 100.0 * f64::from(self.refused_tasks) / f64::from(self.tasks.max(1)),
        }
    }
}

fn node(number: usize, (cores, gib): (u64, u64)) -> NodeView {
    let id = NodeId::new(format!("node-{number:05}")).expect("a valid name");
    let capacity = Resources::new(cores * 1000, gib << 30);
    let spec = NodeSpec {
        max_tasks: 10_000,
        ..NodeSpec::new(id, InstanceId::from_bytes([0; 16]), capacity, [WorkKind::Program])
    };
    let record = NodeRecord::new(spec, IncarnationId::from_bytes([0; 16]), Timestamp::ZERO);
    NodeView { record: Arc::new(record), held: Held::default(), tasks: 0 }
}

fn amounts(resources: &Resources) -> (f64, f64) {
    (resources.cpu_millis as f64, resources.memory_bytes as f64)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value;
        count += 1.0;
    }
    sum / f64::max(count, 1.0)
}

fn deviation(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    let middle = mean(values.iter().copied());
    mean(values.iter().map(|value| (value - middle).powi(2))).sqrt()
}

#[expect(clippy::print_stdout, reason = "the figures are what it is for")]
fn say(line: &str) {
    println!("{line}");
}
