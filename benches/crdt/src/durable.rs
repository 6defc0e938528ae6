//! Orch's store as it is used: on a disk, over a network, in this process.

use std::{sync::Arc, time::Duration};

use orch_core::{
    store::{Revision, StateStore},
    transport::{Channel, InProcessConfig, InProcessNetwork},
};
use orch_store::crdt::{AuthorKey, CrdtStore, CrdtStoreConfig};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    Failure, Pair, TOGETHER,
    memory::{config, txn},
};

/// Two stores in directories of their own.
pub struct Durable {
    stores: Vec<Arc<CrdtStore>>,
    ids: Vec<orch_core::transport::PeerId>,
    network: InProcessNetwork,
    dir: TempDir,
    runtime: Runtime,
}

impl Pair for Durable {
    fn new() -> Result<Self, Failure> {
        let runtime = Runtime::new()?;
        let dir = tempfile::tempdir()?;
        let network = InProcessNetwork::new(InProcessConfig::default());
        let (mut stores, mut ids) = (Vec::new(), Vec::new());
        for seed in [1u8, 2] {
            let key = AuthorKey::from_seed(&[seed; 32]);
            ids.push(key.author());
            let config = CrdtStoreConfig {
                digest_interval: Duration::from_millis(10),
                ..CrdtStoreConfig::new(dir.path().join(seed.to_string()), config())
            };
            let opened = runtime.block_on(async {
                let transport = Arc::new(network.join(key.author()));
                CrdtStore::open_on(config, key, transport, Channel(1)).await
            });
            stores.push(Arc::new(opened?));
        }
        network.partition(&[&ids[..1], &ids[1..]]);
        Ok(Self { stores, ids, network, dir, runtime })
    }

    fn put(&mut self, copy: usize, first: usize, count: usize, byte: u8) -> Result<(), Failure> {
        let store = Arc::clone(&self.stores[copy]);
        self.runtime.block_on(async {
            let mut waiting = tokio::task::JoinSet::new();
            for at in (first..first + count).step_by(TOGETHER) {
                let txn = txn(at, TOGETHER.min(first + count - at), byte)?;
                let store = Arc::clone(&store);
                waiting.spawn(async move { store.commit(txn).await });
            }
            while let Some(done) = waiting.join_next().await {
                done??;
            }
            Ok(())
        })
    }

    /// Ends when both have on their disks what the other wrote.
    fn merge(&mut self) -> Result<usize, Failure> {
        self.network.heal();
        let result = self.runtime.block_on(async {
            loop {
                let heads = |status: orch_store::crdt::Status| {
                    status.authors.iter().map(|author| (author.id, author.head)).collect::<Vec<_>>()
                };
                let (one, two) = (self.stores[0].status().await?, self.stores[1].status().await?);
                if heads(one) == heads(two) {
                    return Ok(0);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        self.network.partition(&[&self.ids[..1], &self.ids[1..]]);
        result
    }

    fn size(&mut self) -> Result<u64, Failure> {
        self.runtime.block_on(async {
            for store in &self.stores {
                store.compact(Revision(u64::MAX)).await?;
            }
            Ok(std::fs::metadata(self.dir.path().join("1/crdt.redb"))?.len())
        })
    }

    fn keys(&self, copy: usize) -> Result<usize, Failure> {
        let page = self.runtime.block_on(self.stores[copy].scan("", None, usize::MAX))?;
        Ok(page.entries.len())
    }
}
