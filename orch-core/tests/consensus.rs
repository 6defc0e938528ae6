//! The consensus of one process and of processes that share a store, against the conformance suite; and the
//! default scheduler against its own.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use orch_core::{
    consensus::{Consensus, LocalConsensus, StoreConsensus},
    scheduler::LeastFragmentation,
    store::{MemoryStore, StateStore},
    testkit::consensus::{ConsensusHarness, run_all},
};

/// Makes a group over the store of its name.
type Make = fn(Arc<dyn StateStore>) -> Vec<Arc<dyn Consensus>>;

struct Groups {
    make: Make,
    stores: Mutex<BTreeMap<String, Arc<MemoryStore>>>,
}

impl Groups {
    fn new(make: Make) -> Self {
        Self { make, stores: Mutex::default() }
    }
}

#[async_trait]
impl ConsensusHarness for Groups {
    async fn group(&self, name: &str) -> Vec<Arc<dyn Consensus>> {
        let store = self.stores.lock().unwrap().entry(name.into()).or_default().clone();
        (self.make)(store)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn local_consensus_in_memory_conforms() {
    run_all(&Groups::new(|_| vec![Arc::new(LocalConsensus::in_memory())])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn local_consensus_on_a_store_conforms() {
    run_all(&Groups::new(|store| vec![Arc::new(LocalConsensus::durable(store))])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn store_consensus_of_three_processes_conforms() {
    let make: Make =
        |store| (0..3).map(|_| Arc::new(StoreConsensus::new(store.clone())) as Arc<dyn Consensus>).collect();
    run_all(&Groups::new(make)).await;
}

#[test]
fn least_fragmentation_conforms() {
    orch_core::testkit::scheduler::run_all(&LeastFragmentation, 3000);
}
