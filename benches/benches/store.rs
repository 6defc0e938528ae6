//! Commits a second: one at a time and 64 together, durable through redb, beside redb alone doing the same,
//! and in memory.

use std::{path::Path, sync::Arc};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use orch_core::store::{Key, MemoryStore, MemoryStoreConfig, StateStore, Txn, Write};
use orch_store::embedded::{RedbStore, RedbStoreConfig};
use redb::{Database, TableDefinition};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Size of a value, in bytes.
const BYTES: usize = 400;
/// Number of keys; every commit writes one of them.
const KEYS: u64 = 100_000;
/// Number of revisions that are kept, by the store and by redb alone.
const KEPT: u64 = 1024;

const RECORDS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("records");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

fn key(number: u64) -> String {
    format!("tasks/{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % KEYS)
}

/// A store under test, with the number of commits so far.
struct Bench {
    runtime: Runtime,
    store: Arc<dyn StateStore>,
    commits: u64,
}

impl Bench {
    fn new(open: impl Future<Output = Arc<dyn StateStore>>) -> Self {
        let runtime = Runtime::new().expect("the system has threads");
        let store = runtime.block_on(open);
        Self { runtime, store, commits: 0 }
    }

    /// Commits this many transactions of one write each, all at once.
    fn commit(&mut self, together: u64) {
        let numbers = self.commits..self.commits + together;
        self.commits += together;
        let store = &self.store;
        self.runtime.block_on(async {
            let all = numbers.map(|number| {
                let key = Key::new(key(number)).expect("a valid key");
                store.commit(Txn::of(vec![Write::put(key, vec![7; BYTES])]))
            });
            for committed in join_all(all).await {
                committed.expect("it is committed");
            }
        });
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.runtime.block_on(self.store.close()).expect("it closes");
    }
}

/// Content of the store, kept by redb alone: records, a log that is trimmed, and the number of the revision.
struct Raw {
    database: Database,
    commits: u64,
}

impl Raw {
    fn new(dir: &Path) -> Self {
        Self { database: Database::create(dir.join("raw.redb")).expect("a database"), commits: 0 }
    }

    /// Writes the content of this many transactions, with one sync.
    fn commit(&mut self, together: u64) -> Result<(), redb::Error> {
        let value = vec![7; BYTES];
        let transaction = self.database.begin_write()?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            let mut log = transaction.open_table(LOG)?;
            for _ in 0..together {
                self.commits += 1;
                records.insert(key(self.commits).as_str(), (self.commits, value.as_slice()))?;
                log.insert(self.commits, value.as_slice())?;
                if self.commits > KEPT {
                    log.remove(self.commits - KEPT)?;
                }
            }
            transaction.open_table(META)?.insert("revision", self.commits)?;
        }
        Ok(transaction.commit()?)
    }
}

async fn embedded(dir: &Path) -> Arc<dyn StateStore> {
    let kept = KEPT.try_into().expect("not zero");
    let config = RedbStoreConfig { history_revisions: kept, ..RedbStoreConfig::new(dir) };
    Arc::new(RedbStore::open(config).await.expect("a store"))
}

fn memory() -> Arc<dyn StateStore> {
    let history_revisions = usize::try_from(KEPT).ok().and_then(|kept| kept.try_into().ok()).expect("small");
    Arc::new(MemoryStore::new(MemoryStoreConfig { history_revisions, ..MemoryStoreConfig::default() }))
}

fn commits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store/commit");
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    for together in [1, 64] {
        group.throughput(Throughput::Elements(together));
        let dir = TempDir::new().expect("a place for files");
        let mut bench = Bench::new(embedded(dir.path()));
        group.bench_function(BenchmarkId::new("redb_store", together), |bencher| {
            bencher.iter(|| bench.commit(together));
        });
        drop(bench);
        let mut raw = Raw::new(dir.path());
        group.bench_function(BenchmarkId::new("redb_alone", together), |bencher| {
            bencher.iter(|| raw.commit(together).expect("it is committed"));
        });
        let mut bench = Bench::new(std::future::ready(memory()));
        group.bench_function(BenchmarkId::new("memory_store", together), |bencher| {
            bencher.iter(|| bench.commit(together));
        });
    }
    group.finish();
}

criterion_group!(benches, commits);
criterion_main!(benches);
