//! The engine from end to end over each store that decisions can be made in: members that each have the store
//! open for themselves (where it can be shared), agents, and everything between them. Only what runs is
//! simulated.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use orch_core::{
    consensus::{Consensus, StoreConsensus},
    store::StateStore,
    testkit::{
        consensus as decisions,
        engine::{self, EngineHarness, Parts},
    },
};
use tokio::sync::Mutex;

use common::unused_name;

/// Opens the store of a name.
type Open = Box<dyn Fn(String) -> BoxFuture<'static, Arc<dyn StateStore>> + Send + Sync>;

fn opener<F: Future<Output = Arc<dyn StateStore>> + Send + 'static>(
    open: impl Fn(String) -> F + Send + Sync + 'static,
) -> Open {
    Box::new(move |name| Box::pin(open(name)))
}

async fn everything(open: Open) {
    let groups = Groups { open, groups: Mutex::default() };
    engine::run_all(&groups).await;
    decisions::run_all(&groups).await;
}

/// Groups that decide over one store.
struct Groups {
    open: Open,
    groups: Mutex<BTreeMap<String, Group>>,
}

struct Group {
    /// Name of the store.
    name: String,
    /// Open stores of the members: the same one if it cannot be opened twice.
    stores: BTreeMap<usize, Arc<dyn StateStore>>,
}

impl Groups {
    /// Closes a member's store, if it was open.
    async fn open(&self, group: &str, member: usize) -> Arc<dyn StateStore> {
        let mut groups = self.groups.lock().await;
        let new = || Group { name: unused_name(), stores: BTreeMap::new() };
        let group = groups.entry(group.into()).or_insert_with(new);
        if let Some(earlier) = group.stores.remove(&member) {
            earlier.close().await.unwrap();
            // It was the others' too.
            group.stores.retain(|_, store| store.capabilities().shared);
        }
        let other = group.stores.values().find(|store| !store.capabilities().shared).cloned();
        let store = match other {
            Some(store) => store,
            None => (self.open)(group.name.clone()).await,
        };
        assert!(store.capabilities().compare_and_swap);
        group.stores.insert(member, store.clone());
        store
    }
}

#[async_trait]
impl EngineHarness for Groups {
    async fn member(&self, group: &str, number: usize) -> Parts {
        let store = self.open(&format!("engine {group}"), number).await;
        Parts { consensus: Arc::new(StoreConsensus::new(store.clone())), store }
    }

    fn members(&self) -> usize {
        2
    }

    fn reopens(&self) -> bool {
        true
    }

    fn node_timeout(&self) -> Duration {
        Duration::from_secs(3)
    }
}

#[async_trait]
impl decisions::ConsensusHarness for Groups {
    async fn group(&self, name: &str) -> Vec<Arc<dyn Consensus>> {
        let mut members: Vec<Arc<dyn Consensus>> = Vec::new();
        for number in 0..3 {
            let store = self.open(name, number).await;
            members.push(Arc::new(StoreConsensus::new(store)));
        }
        members
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_runs_on_redb() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().to_owned();
    everything(opener(move |name| {
        let config = orch_store::redb::RedbStoreConfig::new(base.join(name));
        async move {
            Arc::new(orch_store::redb::RedbStore::open(config).await.unwrap()) as Arc<dyn StateStore>
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
