//! The engine from end to end over each store that decisions can be made in: members that each have the store open for
//! themselves (where it can be shared), agents, and everything between them. Only what runs is simulated.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{future::BoxFuture, future::join_all};
use orch_core::{
    Orchestrator,
    consensus::{Consensus, StoreConsensus},
    engine::{Agent, AgentConfig, AgentHandle, EngineConfig, TaskView},
    model::{AttemptEnd, Exit, Resources, TaskId, TaskSpec, WorkKind},
    state::TaskResult,
    store::StateStore,
    testkit::{SimulatedRuntime, consensus as suite},
};

use common::unused_name;

/// Longer than anything here takes, so that a hang has a name.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens the store of a name.
type Open = Box<dyn Fn(String) -> BoxFuture<'static, Arc<dyn StateStore>> + Send + Sync>;

fn opener<F: Future<Output = Arc<dyn StateStore>> + Send + 'static>(
    open: impl Fn(String) -> F + Send + Sync + 'static,
) -> Open {
    Box::new(move |name| Box::pin(open(name)))
}

/// What each of `members` has open: the same store once if it cannot be opened twice.
async fn opened(open: &Open, members: usize) -> Vec<Arc<dyn StateStore>> {
    let name = unused_name();
    let first = open(name.clone()).await;
    assert!(first.capabilities().compare_and_swap);
    let mut stores = vec![first.clone()];
    while stores.len() < members {
        stores.push(if first.capabilities().shared { open(name.clone()).await } else { first.clone() });
    }
    stores
}

async fn member(store: &Arc<dyn StateStore>, name: &str) -> Orchestrator {
    let engine = EngineConfig {
        member: name.into(),
        heartbeat_interval: Duration::from_millis(500),
        node_timeout: Duration::from_secs(5),
        ..EngineConfig::default()
    };
    let consensus = Arc::new(StoreConsensus::new(store.clone()));
    Orchestrator::builder().store(store.clone()).consensus(consensus).engine(engine).build().await.unwrap()
}

/// An agent keeps its configuration over its lives: that is how it is known again.
fn agent(node: &str) -> AgentConfig {
    let mut config = AgentConfig::local(node, [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(64_000, 64 << 30);
    config
}

async fn join(orch: &Orchestrator, config: &AgentConfig, runtime: &SimulatedRuntime) -> AgentHandle {
    let agent = Agent::start(config.clone(), Arc::new(runtime.clone()), orch.link());
    agent.registered().await.unwrap();
    agent
}

async fn done(orch: &Orchestrator, task: TaskId) -> TaskView {
    // A member hears of another one's tasks a moment later.
    let known = async {
        let mut events = orch.events();
        while orch.get(task).is_none() {
            events.next().await.unwrap().unwrap();
        }
        orch.wait(task).await.unwrap()
    };
    tokio::time::timeout(PATIENCE, known).await.unwrap_or_else(|_| panic!("{task} did not end"))
}

async fn everything(open: Open) {
    tasks_are_run_tried_again_and_cancelled(&open).await;
    members_share_the_work(&open).await;
    a_restart_forgets_nothing(&open).await;
    suite::run_all(&Groups { open, stores: tokio::sync::Mutex::default() }).await;
}

async fn tasks_are_run_tried_again_and_cancelled(open: &Open) {
    let stores = opened(open, 1).await;
    let (orch, runtime) = (member(&stores[0], "one").await, SimulatedRuntime::new());
    let _agent = join(&orch, &agent("a"), &runtime).await;
    let task = orch.submit(TaskSpec::program("hello", "say").args(["hello", "there"])).await.unwrap();
    assert_eq!(done(&orch, task).await.status(), "succeeded");
    assert_eq!(orch.logs(task, true).await.unwrap().text().await.unwrap(), "hello there\n");

    let bad = TaskSpec::program("bad", "exit").args(["7"]).max_attempts(3).backoff(Duration::from_millis(10));
    let bad = orch.submit(bad).await.unwrap();
    let view = done(&orch, bad).await;
    assert_eq!(view.record.result(), Some(&TaskResult::Failed));
    assert_eq!(view.record.attempts_made, 3);
    assert_eq!(view.record.last_end(), Some(&AttemptEnd::Exited { exit: Exit::from_code(7) }));

    let hang = orch.submit(TaskSpec::program("hang", "hang")).await.unwrap();
    orch.cancel(hang, "changed my mind").await.unwrap();
    let reason = "changed my mind".to_owned();
    assert_eq!(done(&orch, hang).await.record.result(), Some(&TaskResult::Cancelled { reason }));
    orch.shutdown().await.unwrap();
}

/// Two members race for every decision, and each task runs once.
async fn members_share_the_work(open: &Open) {
    const EACH: usize = 60;
    let stores = opened(open, 2).await;
    let members = [member(&stores[0], "one").await, member(&stores[1], "two").await];
    let runtimes = [SimulatedRuntime::new(), SimulatedRuntime::new()];
    let _agents = (
        join(&members[0], &agent("a"), &runtimes[0]).await,
        join(&members[1], &agent("b"), &runtimes[1]).await,
    );
    let submitted = members
        .iter()
        .flat_map(|orch| (0..EACH).map(move |n| orch.submit(TaskSpec::program(format!("task-{n}"), "true"))));
    let tasks: Vec<TaskId> = join_all(submitted).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(tasks.iter().collect::<BTreeSet<_>>().len(), 2 * EACH, "no id is given twice");
    for task in &tasks {
        for orch in &members {
            assert_eq!(done(orch, *task).await.status(), "succeeded");
        }
    }
    let starts: Vec<_> = runtimes.iter().flat_map(SimulatedRuntime::starts).collect();
    assert_eq!(starts.len(), 2 * EACH, "each task is started once");
    assert_eq!(starts.iter().map(|attempt| attempt.task).collect::<BTreeSet<_>>().len(), 2 * EACH);
    for orch in members {
        orch.shutdown().await.unwrap();
    }
}

async fn a_restart_forgets_nothing(open: &Open) {
    let name = unused_name();
    let (runtime, config) = (SimulatedRuntime::new(), agent("a"));
    let (finished, running) = {
        let store = open(name.clone()).await;
        let orch = member(&store, "one").await;
        let agent = join(&orch, &config, &runtime).await;
        let finished = orch.submit(TaskSpec::program("before", "true")).await.unwrap();
        done(&orch, finished).await;
        let running = orch.submit(TaskSpec::program("through", "hang")).await.unwrap();
        let mut events = orch.events();
        while orch.get(running).unwrap().status() != "running" {
            events.next().await.unwrap().unwrap();
        }
        agent.leave().await;
        orch.shutdown().await.unwrap();
        store.close().await.unwrap();
        (finished, running)
    };
    let store = open(name).await;
    let orch = member(&store, "one").await;
    assert_eq!(orch.get(finished).unwrap().status(), "succeeded");
    let _agent = join(&orch, &config, &runtime).await;
    runtime.finish(
        orch_core::model::AttemptId { task: running, attempt: std::num::NonZeroU32::MIN },
        Exit::from_code(0),
    );
    assert_eq!(done(&orch, running).await.status(), "succeeded");
    assert_eq!(runtime.starts().len(), 2, "what runs is taken over and not started again");
    orch.shutdown().await.unwrap();
}

/// Groups of three that decide over one store, which stays open between their lives.
struct Groups {
    open: Open,
    stores: tokio::sync::Mutex<BTreeMap<String, Vec<Arc<dyn StateStore>>>>,
}

#[async_trait]
impl suite::ConsensusHarness for Groups {
    async fn group(&self, name: &str) -> Vec<Arc<dyn Consensus>> {
        let mut stores = self.stores.lock().await;
        if !stores.contains_key(name) {
            stores.insert(name.into(), opened(&self.open, 3).await);
        }
        let member =
            |store: &Arc<dyn StateStore>| Arc::new(StoreConsensus::new(store.clone())) as Arc<dyn Consensus>;
        stores[name].iter().map(member).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_runs_on_redb() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().to_owned();
    everything(opener(move |name| {
        let config = orch_store::embedded::RedbStoreConfig::new(base.join(name));
        async move {
            Arc::new(orch_store::embedded::RedbStore::open(config).await.unwrap()) as Arc<dyn StateStore>
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_runs_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().to_owned();
    everything(opener(move |name| {
        let url = format!("sqlite://{}", base.join(name).display());
        async move { orch_store::connect(&url).await.unwrap() }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_runs_on_postgres() {
    let server = common::variable("ORCH_TEST_POSTGRES");
    everything(opener(move |name| {
        let url = format!("{server}?schema={name}");
        async move { orch_store::connect(&url).await.unwrap() }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_runs_on_etcd() {
    let members = common::variable("ORCH_TEST_ETCD");
    let _turn = common::turn(&members, true).await;
    everything(opener(move |name| {
        let url = format!("etcd://{members}/{name}");
        async move { orch_store::connect(&url).await.unwrap() }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_runs_on_redis() {
    let server = common::variable("ORCH_TEST_REDIS");
    let _turn = common::turn(&common::variable("ORCH_TEST_REDIS_CRASH"), false).await;
    everything(opener(move |name| {
        let url = format!("{server}?namespace={name}");
        async move { orch_store::connect(&url).await.unwrap() }
    }))
    .await;
}
