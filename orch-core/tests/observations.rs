//! Observations in a store apart from that of decisions.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use orch_core::{
    Error, Orchestrator,
    consensus::{LocalConsensus, StoreConsensus},
    engine::{Agent, AgentConfig, Builder},
    model::{AttemptId, Resources, TaskId, TaskSpec, WorkKind},
    state::TaskStatus,
    store::{Durability, MemoryStore, Position, StateStore, StoreCapabilities},
    testkit::{Layered, SimulatedRuntime, StoreLayer},
};

/// Another handle of a store, which may declare something else.
#[derive(Debug)]
struct Handle(Arc<dyn StateStore>, StoreCapabilities);

impl Handle {
    fn of(
        store: &Arc<dyn StateStore>,
        declare: fn(StoreCapabilities) -> StoreCapabilities,
    ) -> Arc<dyn StateStore> {
        Arc::new(Layered(Self(store.clone(), declare(store.capabilities()))))
    }
}

impl StoreLayer for Handle {
    fn below(&self) -> &dyn StateStore {
        &*self.0
    }

    fn capabilities(&self) -> StoreCapabilities {
        self.1
    }
}

async fn keys(store: &Arc<dyn StateStore>) -> Vec<String> {
    let page = store.scan("", None, 1000).await.unwrap();
    page.entries.iter().map(|entry| entry.key.to_string()).collect()
}

fn memory() -> Arc<dyn StateStore> {
    Arc::new(MemoryStore::default())
}

fn observed(task: TaskId) -> String {
    format!("observed/attempts/{}", AttemptId { task, attempt: std::num::NonZeroU32::MIN })
}

/// Submits a task that runs on and one that writes and ends, and waits until both are stored.
async fn run(orch: &Orchestrator, observations: &Arc<dyn StateStore>) -> (TaskId, TaskId) {
    let mut config = AgentConfig::local("a", [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(4000, 4 << 30);
    let agent = Agent::start(config, Arc::new(SimulatedRuntime::new()), orch.link());
    let runs = orch.submit(TaskSpec::program("runs", "hang")).await.unwrap();
    let said = orch.submit(TaskSpec::program("said", "say").args(["words"])).await.unwrap();
    orch.wait(said).await.unwrap();
    let mut written = observations.watch(&observed(runs), Position::ZERO).await.unwrap();
    written.next().await.unwrap().unwrap();
    agent.leave().await;
    (runs, said)
}

async fn check(orch: &Orchestrator, (runs, said): (TaskId, TaskId)) {
    assert_eq!(orch.get(runs).unwrap().status(), TaskStatus::Running);
    assert_eq!(orch.get(said).unwrap().status(), TaskStatus::Succeeded);
    assert_eq!(orch.logs(said, false).await.unwrap().text().await.unwrap(), "words\n");
}

#[tokio::test]
async fn each_store_has_only_its_keys_and_a_restart_keeps_both() {
    let (decisions, observations) = (memory(), memory());
    let build = async || {
        let consensus = Arc::new(LocalConsensus::durable(decisions.clone()));
        let builder = Orchestrator::builder().store(decisions.clone()).consensus(consensus);
        builder.observations(observations.clone()).build().await.unwrap()
    };
    let first = build().await;
    let tasks = run(&first, &observations).await;
    drop(first);
    let (decided, seen) = (keys(&decisions).await, keys(&observations).await);
    assert!(decided.contains(&format!("tasks/{}", tasks.0)), "{decided:?}");
    assert!(!decided.iter().any(|key| key.starts_with("observed/")), "{decided:?}");
    assert!(seen.contains(&observed(tasks.0)), "{seen:?}");
    assert!(seen.iter().any(|key| key.starts_with("observed/output/")), "{seen:?}");
    assert!(seen.iter().all(|key| key.starts_with("observed/")), "{seen:?}");
    check(&build().await, tasks).await;
}

#[tokio::test]
async fn what_the_store_of_decisions_holds_from_before_is_moved() {
    let (decisions, observations) = (memory(), memory());
    let build = async |apart: Option<&Arc<dyn StateStore>>| {
        let consensus = Arc::new(LocalConsensus::durable(decisions.clone()));
        let builder = Orchestrator::builder().store(decisions.clone()).consensus(consensus);
        match apart {
            Some(store) => builder.observations(store.clone()).build().await.unwrap(),
            None => builder.build().await.unwrap(),
        }
    };
    let first = build(None).await;
    let tasks = run(&first, &decisions).await;
    drop(first);
    // Two handles of one store: nothing is elsewhere.
    let same = Handle::of(&decisions, |declared| declared);
    check(&build(Some(&same)).await, tasks).await;
    assert!(keys(&decisions).await.contains(&observed(tasks.0)));

    check(&build(Some(&observations)).await, tasks).await;
    let (decided, seen) = (keys(&decisions).await, keys(&observations).await);
    assert!(!decided.iter().any(|key| key.starts_with("observed/")), "{decided:?}");
    assert!(seen.contains(&observed(tasks.0)), "{seen:?}");
}

#[tokio::test]
async fn compositions_that_cannot_work_are_refused() {
    let refused = async |builder: Builder| match builder.build().await {
        Err(Error::Composition(why)) => why,
        other => panic!("{other:?}"),
    };
    let shared = Handle::of(&memory(), |declared| declared.shared(true));
    let merging = Handle::of(&memory(), |declared| declared.shared(true).compare_and_swap(false));
    for private in [memory(), merging] {
        let why = refused(Orchestrator::builder().store(shared.clone()).observations(private)).await;
        assert!(why.contains("takes a shared store with compare-and-swap"), "{why}");
    }
    let keeps_commands = Arc::new(LocalConsensus::in_memory());
    let builder = Orchestrator::builder().store(memory()).consensus(keeps_commands).observations(memory());
    let why = refused(builder).await;
    assert!(why.contains("nothing would be kept in the store given to .store(...)"), "{why}");
    let durable = Handle::of(&memory(), |declared| declared.durability(Durability::Sync));
    let why = refused(Orchestrator::builder().observations(durable)).await;
    assert!(why.contains("decisions would be in memory"), "{why}");
    let late = Handle::of(&memory(), |declared| declared.shared(true).watch_latency(Duration::from_secs(10)));
    let consensus = Arc::new(StoreConsensus::new(late.clone()));
    let why = refused(Orchestrator::builder().store(late).consensus(consensus)).await;
    assert!(why.contains("set EngineConfig::node_timeout to 20s or more"), "{why}");
}

#[tokio::test]
async fn members_of_one_store_meet_in_the_store_of_observations() {
    let (decisions, observations) = (memory(), Handle::of(&memory(), |declared| declared.shared(true)));
    let shared = Handle::of(&decisions, |declared| declared.shared(true));
    let mut digests = observations.watch("observed/members/", Position::ZERO).await.unwrap();
    let consensus = Arc::new(StoreConsensus::named(shared.clone(), "one"));
    let builder = Orchestrator::builder().store(shared).consensus(consensus);
    let member = builder.observations(observations.clone()).build().await.unwrap();
    let config = AgentConfig::local("a", [WorkKind::Program]).unwrap();
    let agent = Agent::start(config, Arc::new(SimulatedRuntime::new()), member.link());
    let digest = digests.next().await.unwrap().unwrap();
    assert_eq!(digest.writes[0].key.as_str(), "observed/members/one");
    agent.leave().await;
    member.shutdown().await.unwrap();
    assert!(!keys(&decisions).await.iter().any(|key| key.starts_with("observed/")));
}
