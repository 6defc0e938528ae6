use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use orch_core::{
    consensus::Consensus,
    store::Durability,
    testkit::consensus::{ConsensusHarness, run_all},
};

use crate::group::Group;

struct Groups {
    members: usize,
    durability: Durability,
    directory: tempfile::TempDir,
    groups: Mutex<BTreeMap<String, Arc<Group>>>,
}

impl Groups {
    fn new(members: usize, durability: Durability) -> Self {
        Self { members, durability, directory: tempfile::tempdir().unwrap(), groups: Mutex::default() }
    }

    fn group(&self, name: &str) -> Arc<Group> {
        let path: Option<PathBuf> =
            (self.durability != Durability::Memory).then(|| self.directory.path().join(name));
        let mut groups = self.groups.lock().unwrap();
        let group =
            groups.entry(name.into()).or_insert_with(|| Arc::new(Group::new(self.members, path.as_deref())));
        group.clone()
    }
}

#[async_trait]
impl ConsensusHarness for Groups {
    async fn group(&self, name: &str) -> Vec<Arc<dyn Consensus>> {
        let group = self.group(name);
        let member = |number| {
            let mut config = group.config_of(number);
            config.durability = self.durability;
            let signer = Arc::new(crate::group::signer(number));
            let member = orch_consensus::pbft::PbftConsensus::new(config, signer, group.join(number));
            Arc::new(member.unwrap()) as Arc<dyn Consensus>
        };
        (0..self.members).map(member).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_in_memory_conforms() {
    run_all(&Groups::new(1, Durability::Memory)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_members_in_memory_conform() {
    run_all(&Groups::new(4, Durability::Memory)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_durable_member_conforms() {
    run_all(&Groups::new(1, Durability::Sync)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_durable_members_conform() {
    run_all(&Groups::new(4, Durability::Sync)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_members_that_sync_at_intervals_conform() {
    run_all(&Groups::new(4, Durability::Group)).await;
}
