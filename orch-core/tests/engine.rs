//! The engine end to end, over what this crate brings: orchestrator, agents and everything between them are real. And what
//! depends on no composition.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use orch_core::{
    Error, Orchestrator,
    consensus::{Consensus, LocalConsensus, StoreConsensus},
    engine::EngineConfig,
    model::TaskSpec,
    state::{ClusterConfig, Rejection, TaskResult, TimeoutKind},
    store::{MemoryStore, StateStore},
    testkit::engine::{EngineHarness, Parts, run_all},
};
use tokio::sync::Mutex;

/// Groups over stores in memory.
struct InMemory {
    stores: Mutex<BTreeMap<String, Arc<dyn StateStore>>>,
    decide: Decide,
    members: usize,
}

type Decide = fn(Arc<dyn StateStore>) -> Arc<dyn Consensus>;

impl InMemory {
    fn new(members: usize, decide: Decide) -> Self {
        Self { stores: Mutex::default(), decide, members }
    }
}

#[async_trait]
impl EngineHarness for InMemory {
    async fn member(&self, group: &str, _: usize) -> Parts {
        let mut stores = self.stores.lock().await;
        let store = stores.entry(group.into()).or_insert_with(|| Arc::new(MemoryStore::default())).clone();
        Parts { consensus: (self.decide)(store.clone()), store }
    }

    fn members(&self) -> usize {
        self.members
    }

    /// Who shuts down closes the store, and what is in memory is gone.
    fn reopens(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_works_where_nothing_is_kept() {
    run_all(&InMemory::new(1, |_| Arc::new(LocalConsensus::in_memory()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_works_with_records_of_its_own() {
    run_all(&InMemory::new(1, |store| Arc::new(LocalConsensus::durable(store)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_works_over_one_store_for_all() {
    run_all(&InMemory::new(2, |store| Arc::new(StoreConsensus::new(store)))).await;
}

fn quick() -> EngineConfig {
    EngineConfig {
        heartbeat_interval: Duration::from_millis(50),
        node_timeout: Duration::from_millis(400),
        assignments_wait: Duration::from_millis(200),
        shutdown_grace: Duration::from_millis(200),
        ..EngineConfig::default()
    }
}

fn hang(name: &str) -> TaskSpec {
    TaskSpec::program(name, "hang")
}

/// It goes without a word; the suite has the case of one that is shut down.
#[tokio::test]
async fn decisions_outlive_an_orchestrator_that_is_dropped() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let build = async || {
        let consensus = Arc::new(LocalConsensus::durable(store.clone()));
        Orchestrator::builder()
            .store(store.clone())
            .consensus(consensus)
            .engine(quick())
            .build()
            .await
            .unwrap()
    };
    let before = build().await;
    let task = before.submit(hang("survives")).await.unwrap();
    drop(before);
    assert_eq!(build().await.get(task).unwrap().status(), "pending");
}

#[tokio::test]
async fn parts_that_cannot_work_together_are_refused_with_the_way_out() {
    let engine = EngineConfig { node_timeout: Duration::from_millis(1), ..EngineConfig::default() };
    let error = Orchestrator::builder().engine(engine).build().await.unwrap_err().to_string();
    assert!(error.contains("at least twice heartbeat_interval"), "{error}");
}

#[tokio::test]
async fn a_full_cluster_refuses_more_and_takes_it_later() {
    let cluster = ClusterConfig { unfinished_max: 1, ..ClusterConfig::default() };
    let orch = Orchestrator::builder().cluster(cluster).build().await.unwrap();
    let first = orch.submit(hang("first")).await.unwrap();
    let full = orch.submit(hang("second")).await;
    assert!(matches!(full, Err(Error::Rejected(Rejection::QueueFull { limit: 1 }))), "{full:?}");
    orch.cancel(first, "").await.unwrap();
    orch.submit(hang("second")).await.unwrap();
}

#[tokio::test]
async fn ten_thousand_tasks_at_once_are_taken_in_timed_out_and_lost_without_trouble() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let orch = Orchestrator::builder().store(store).engine(quick()).build().await.unwrap();
    let waiting = hang("w").queue_timeout(Duration::from_millis(300));
    let ids = orch.submit_all(vec![waiting; 10_000]).await.unwrap();
    let limit = TimeoutKind::Queue;
    for id in ids {
        assert_eq!(orch.wait(id).await.unwrap().record.result(), Some(&TaskResult::TimedOut { limit }));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_host_that_is_its_own_node_starts_again_on_its_records() {
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::default());
    let build = async || {
        let consensus = Arc::new(LocalConsensus::durable(store.clone()));
        let builder = Orchestrator::builder().store(store.clone()).consensus(consensus).engine(quick());
        builder.local_node().unwrap().build().await.unwrap()
    };
    let first = build().await;
    let task = first.submit(TaskSpec::program("one", "true")).await.unwrap();
    first.wait(task).await.unwrap();
    drop(first);
    let second = build().await;
    let task = second.submit(TaskSpec::program("two", "true")).await.unwrap();
    assert_eq!(second.wait(task).await.unwrap().status(), "succeeded");
}
