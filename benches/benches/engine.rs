//! Tasks a second from submission to completion: an orchestrator and four agents in one process, whose work
//! ends as soon as it starts.

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use futures_util::{StreamExt, TryStreamExt, stream};
use orch_benches::{
    Failure,
    cluster::{join, node, run_all, small_task},
};
use orch_core::{Orchestrator, engine::AgentHandle, model::TaskSpec, state::ClusterConfig};
use orch_store::embedded::{RedbStore, RedbStoreConfig};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const TASKS: usize = 5000;
const BATCH: usize = 100;
const AGENTS: usize = 4;
/// Number of concurrent submissions.
const CLIENTS: usize = 10;

struct Cluster {
    orchestrator: Orchestrator,
    agents: Vec<AgentHandle>,
    /// Removed with the cluster.
    _dir: Option<TempDir>,
}

impl Cluster {
    async fn start(dir: Option<TempDir>) -> Result<Self, Failure> {
        let cluster = ClusterConfig { finished_max: 50_000, ..ClusterConfig::default() };
        let mut builder = Orchestrator::builder().cluster(cluster);
        if let Some(dir) = &dir {
            let store = RedbStore::open(RedbStoreConfig::new(dir.path())).await?;
            builder = builder.store(std::sync::Arc::new(store));
        }
        let orchestrator = builder.build().await?;
        let mut agents = Vec::new();
        for number in 0..AGENTS {
            agents.push(join(orchestrator.link(), node(number)).await?);
        }
        Ok(Self { orchestrator, agents, _dir: dir })
    }

    async fn run(&self, batches: Vec<Vec<TaskSpec>>) -> Result<(), Failure> {
        let submissions = stream::iter(batches).map(|batch| run_all(&self.orchestrator, batch));
        submissions.buffer_unordered(CLIENTS).try_collect().await
    }

    async fn stop(self) -> Result<(), Failure> {
        for agent in self.agents {
            agent.leave().await;
        }
        Ok(self.orchestrator.shutdown().await?)
    }
}

fn batches() -> Vec<Vec<TaskSpec>> {
    (0..TASKS / BATCH)
        .map(|batch| (0..BATCH).map(|n| small_task(format!("task-{batch}-{n}"))).collect())
        .collect()
}

fn to_completion(criterion: &mut Criterion, name: &str, dir: Option<TempDir>) {
    let runtime = Runtime::new().expect("the system has threads");
    let cluster = runtime.block_on(Cluster::start(dir)).expect("the parts fit together");
    let mut group = criterion.benchmark_group("engine/submit_to_completion");
    group.throughput(Throughput::Elements(TASKS as u64));
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|rounds| {
            (0..rounds)
                .map(|_| {
                    let batches = batches();
                    let begin = Instant::now();
                    runtime.block_on(cluster.run(batches)).expect("all tasks end well");
                    begin.elapsed()
                })
                .sum::<Duration>()
        });
    });
    group.finish();
    runtime.block_on(cluster.stop()).expect("it stops");
}

fn benchmark(criterion: &mut Criterion) {
    to_completion(criterion, "memory", None);
    to_completion(criterion, "redb_sync", Some(TempDir::new().expect("a place for files")));
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
