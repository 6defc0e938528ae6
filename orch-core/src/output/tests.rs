//! The suite on each output store.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{FileOutput, FileOutputConfig, MemoryOutput, OutputStore, StoreOutput};
use crate::{
    store::{MemoryStore, StateStore},
    testkit::output::{OutputHarness, run_all},
};

struct InMemory;

#[async_trait]
impl OutputHarness for InMemory {
    async fn open(&self, _: &str, bytes_max: u64) -> Arc<dyn OutputStore> {
        Arc::new(MemoryOutput::new(bytes_max))
    }

    fn reopens(&self) -> bool {
        false
    }
}

#[derive(Default)]
struct InStores(Mutex<std::collections::BTreeMap<String, Arc<dyn StateStore>>>);

#[async_trait]
impl OutputHarness for InStores {
    async fn open(&self, name: &str, bytes_max: u64) -> Arc<dyn OutputStore> {
        let mut stores = self.0.lock().await;
        let store = stores.entry(name.into()).or_insert_with(|| Arc::new(MemoryStore::default())).clone();
        Arc::new(StoreOutput::open(store, bytes_max).await.unwrap())
    }

    fn reopens(&self) -> bool {
        true
    }
}

struct InFiles(PathBuf);

#[async_trait]
impl OutputHarness for InFiles {
    async fn open(&self, name: &str, bytes_max: u64) -> Arc<dyn OutputStore> {
        let config = FileOutputConfig { bytes_max, ..FileOutputConfig::new(self.0.join(name)) };
        Arc::new(FileOutput::open(config).await.unwrap())
    }

    fn reopens(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn memory_keeps_output() {
    run_all(&InMemory).await;
}

#[tokio::test]
async fn a_state_store_keeps_output() {
    run_all(&InStores::default()).await;
}

#[tokio::test]
async fn files_keep_output() {
    let dir = tempfile::tempdir().unwrap();
    run_all(&InFiles(dir.path().into())).await;
}
