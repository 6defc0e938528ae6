//! The engine end to end on a store: orchestrator, agents and everything between them are real, only the work is simulated.
//!
//! Call [`run_all`] from a test of a store that declares compare-and-swap, on a multi-threaded runtime. Each case is a function
//! of its own, so that one of them can be run alone.

use std::{future::Future, num::NonZeroU32, sync::Arc, time::Duration};

use futures_util::future::join_all;

use super::{
    SimulatedRuntime,
    store::{StoreHarness, case},
};
use crate::{
    Orchestrator,
    consensus::{Consensus, LocalConsensus, StoreConsensus},
    engine::{Agent, AgentConfig, AgentHandle, EngineConfig, TaskView},
    model::{AttemptId, Exit, InstanceId, Resources, TaskId, TaskSpec, WorkKind},
    state::TaskResult,
    store::StateStore,
};

/// Runs every case, with one process that decides alone and with members that decide over the store.
///
/// # Panics
/// When the engine does not work on the store.
pub async fn run_all(harness: &dyn StoreHarness) {
    for how in [Deciding::Alone, Deciding::OverTheStore] {
        case("tasks_come_to_their_ends", tasks_come_to_their_ends(harness, how)).await;
        case("many_tasks_run_once_each", many_tasks_run_once_each(harness, how)).await;
        if harness.reopens() {
            case("records_outlive_the_process", records_outlive_the_process(harness, how)).await;
        }
    }
    case("members_share_a_store", members_share_a_store(harness)).await;
}

/// How an engine makes its decisions durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deciding {
    /// [`LocalConsensus`]: nobody else writes.
    Alone,
    /// [`StoreConsensus`]: others may.
    OverTheStore,
}

impl Deciding {
    fn consensus(self, store: &Arc<dyn StateStore>) -> Arc<dyn Consensus> {
        match self {
            Self::Alone => Arc::new(LocalConsensus::durable(store.clone())),
            Self::OverTheStore => Arc::new(StoreConsensus::new(store.clone())),
        }
    }
}

/// A program that ends well, one that fails until it is given up, one that is stopped, and one that takes too long.
///
/// # Panics
/// When one of them ends otherwise.
pub async fn tasks_come_to_their_ends(harness: &dyn StoreHarness, how: Deciding) {
    let store = harness.open(&format!("engine-ends-{how:?}")).await;
    let (orch, runtime) = (member(&store, how, "one").await, SimulatedRuntime::new());
    let _agent = join(&orch, &runtime).await;
    let said = submit(&orch, TaskSpec::program("said", "say").args(["some", "words"])).await;
    let bad = TaskSpec::program("bad", "exit").args(["7"]).max_attempts(2).backoff(Duration::from_millis(10));
    let bad = submit(&orch, bad).await;
    let long = TaskSpec::program("long", "hang").run_timeout(Duration::from_millis(50));
    let long = submit(&orch, long).await;
    let unwanted = submit(&orch, TaskSpec::program("unwanted", "hang")).await;
    orch.cancel(unwanted, "not needed").await.expect("a task that hangs can be cancelled");

    assert_eq!(end_of(&orch, said).await, Some(TaskResult::Succeeded));
    let output = orch.logs(said, false).await.expect("output is kept").text().await;
    assert_eq!(output.expect("output can be read"), "some words\n");
    assert_eq!(end_of(&orch, bad).await, Some(TaskResult::Failed));
    assert!(matches!(end_of(&orch, long).await, Some(TaskResult::TimedOut { .. })));
    assert!(matches!(end_of(&orch, unwanted).await, Some(TaskResult::Cancelled { .. })));
    let of = |task| runtime.starts().iter().filter(|attempt| attempt.task == task).count();
    assert_eq!((of(said), of(bad), of(long)), (1, 2, 1), "how often each was started");
    end(orch, &store).await;
}

/// Many callers at once: each task is taken in, placed, run and recorded once.
///
/// # Panics
/// When one is lost or runs twice.
pub async fn many_tasks_run_once_each(harness: &dyn StoreHarness, how: Deciding) {
    let store = harness.open(&format!("engine-many-{how:?}")).await;
    let (orch, runtime) = (member(&store, how, "one").await, SimulatedRuntime::new());
    let _agent = join(&orch, &runtime).await;
    let tasks = (0..TASKS).map(|number| submit(&orch, TaskSpec::program(format!("t{number}"), "true")));
    for task in join_all(tasks).await {
        assert_eq!(end_of(&orch, task).await, Some(TaskResult::Succeeded));
    }
    started_once_each(&runtime);
    end(orch, &store).await;
}

/// A process ends and another one goes on with its records: what ended is known, and what runs goes on.
///
/// # Panics
/// When something is lost, or started again.
pub async fn records_outlive_the_process(harness: &dyn StoreHarness, how: Deciding) {
    let name = format!("engine-outlive-{how:?}");
    let (store, runtime) = (harness.open(&name).await, SimulatedRuntime::new());
    let before = member(&store, how, "one").await;
    let agent = join(&before, &runtime).await;
    let done = submit(&before, TaskSpec::program("done", "say").args(["words"])).await;
    let runs = submit(&before, TaskSpec::program("runs", "hang")).await;
    assert_eq!(end_of(&before, done).await, Some(TaskResult::Succeeded));
    until(&before, runs, "running").await;
    agent.leave().await;
    end(before, &store).await;

    let store = harness.open(&name).await;
    let after = member(&store, how, "one").await;
    let known = after.get(done).expect("what ended is still known");
    assert_eq!(known.record.result(), Some(&TaskResult::Succeeded));
    let output = after.logs(done, false).await.expect("output is kept").text().await;
    assert_eq!(output.expect("output can be read"), "words\n");
    let _agent = join(&after, &runtime).await;
    let first = AttemptId { task: runs, attempt: NonZeroU32::MIN };
    runtime.finish(first, Exit::from_code(0));
    assert_eq!(end_of(&after, runs).await, Some(TaskResult::Succeeded));
    assert_eq!(runtime.starts().len(), 2, "nothing was started again");
    end(after, &store).await;
}

/// Two members take tasks in and decide over one store; one node runs them all. Both know how each ended.
///
/// # Panics
/// When they disagree, or something is lost or runs twice.
pub async fn members_share_a_store(harness: &dyn StoreHarness) {
    let store = harness.open("engine-members").await;
    let how = Deciding::OverTheStore;
    let (one, two) = (member(&store, how, "one").await, member(&store, how, "two").await);
    let runtime = SimulatedRuntime::new();
    let _agent = join(&one, &runtime).await;
    let tasks = join_all((0..TASKS).map(|number| {
        let orch = if number % 2 == 0 { &one } else { &two };
        submit(orch, TaskSpec::program(format!("t{number}"), "true"))
    }));
    let tasks = tasks.await;
    for orch in [&one, &two] {
        orch.read_barrier().await.expect("a member can read");
        for task in &tasks {
            assert_eq!(end_of(orch, *task).await, Some(TaskResult::Succeeded));
        }
    }
    started_once_each(&runtime);
    one.shutdown().await.expect("a member ends");
    end(two, &store).await;
}

/// Tasks of the cases with many.
const TASKS: usize = 60;

async fn member(store: &Arc<dyn StateStore>, how: Deciding, name: &str) -> Orchestrator {
    let engine = EngineConfig {
        member: name.into(),
        shutdown_grace: Duration::from_millis(200),
        ..EngineConfig::default()
    };
    let builder = Orchestrator::builder().store(store.clone()).consensus(how.consensus(store)).engine(engine);
    builder.build().await.expect("an engine can be built on the store")
}

async fn join(orch: &Orchestrator, runtime: &SimulatedRuntime) -> AgentHandle {
    let mut config =
        AgentConfig::local("node", [WorkKind::Program]).expect("the suite uses valid configurations");
    // The same agent in each of its lives.
    config.node.instance = InstanceId::from_bytes(*b"testkit's engine");
    config.node.capacity = Resources::new(1_000_000, 1 << 40);
    config.observe_every = Duration::from_millis(5);
    let agent = Agent::start(config, Arc::new(runtime.clone()), orch.link());
    agent.registered().await.expect("a node can join");
    agent
}

async fn submit(orch: &Orchestrator, spec: TaskSpec) -> TaskId {
    orch.submit(spec).await.expect("a good task is taken in")
}

async fn end_of(orch: &Orchestrator, task: TaskId) -> Option<TaskResult> {
    let done = soon("the end of a task", orch.wait(task)).await.expect("a known task can be waited for");
    done.record.result().cloned()
}

async fn until(orch: &Orchestrator, task: TaskId, status: &str) {
    let mut events = orch.events();
    let looked = async {
        while orch.get(task).as_ref().map(TaskView::status) != Some(status) {
            events.next().await.expect("events go on").expect("events can be read");
        }
    };
    soon(status, looked).await;
}

/// Longer than anything takes on a slow machine, so that a hang has a name.
async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("{what}: not after {limit:?}"))
}

#[track_caller]
fn started_once_each(runtime: &SimulatedRuntime) {
    let mut starts = runtime.starts();
    starts.sort_unstable();
    starts.dedup_by_key(|attempt| attempt.task);
    assert_eq!((starts.len(), runtime.starts().len()), (TASKS, TASKS), "tasks that were started, and starts");
}

async fn end(orch: Orchestrator, store: &Arc<dyn StateStore>) {
    orch.shutdown().await.expect("an engine ends");
    drop(orch);
    store.close().await.expect("a store can be closed");
}
