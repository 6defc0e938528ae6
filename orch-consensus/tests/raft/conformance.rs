use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use orch_consensus::raft::{RaftConsensus, Storage};
use orch_core::{
    consensus::Consensus,
    testkit::consensus::{ConsensusHarness, run_all},
};

use crate::group::{Group, peer};

/// Groups by name; each keeps its directories.
struct Groups {
    count: u8,
    storage: fn(&Group, u8) -> Storage,
    made: Mutex<BTreeMap<String, Arc<Group>>>,
}

impl Groups {
    fn new(count: u8, storage: fn(&Group, u8) -> Storage) -> Self {
        Self { count, storage, made: Mutex::default() }
    }
}

#[async_trait]
impl ConsensusHarness for Groups {
    async fn group(&self, name: &str) -> Vec<Arc<dyn Consensus>> {
        let make = || Arc::new(Group::on_disk(self.count));
        let group = self.made.lock().unwrap().entry(name.into()).or_insert_with(make).clone();
        let member = |number| {
            let mut config = group.config(number);
            config.storage = (self.storage)(&group, number);
            let transport = Arc::new(group.network.join(peer(number)));
            Arc::new(RaftConsensus::new(config, transport).unwrap()) as Arc<dyn Consensus>
        };
        (1..=self.count).map(member).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_in_memory_conforms() {
    run_all(&Groups::new(1, |_, _| Storage::Memory)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_in_memory_conform() {
    run_all(&Groups::new(3, |_, _| Storage::Memory)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_synced_member_conforms() {
    run_all(&Groups::new(1, |group, number| Storage::Synced { directory: group.directory(number) })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_synced_members_conform() {
    run_all(&Groups::new(3, |group, number| Storage::Synced { directory: group.directory(number) })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_written_members_conform() {
    run_all(&Groups::new(3, |group, number| Storage::Written {
        directory: group.directory(number),
        interval: Duration::from_millis(50),
    }))
    .await;
}
