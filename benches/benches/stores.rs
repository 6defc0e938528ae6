//! Stores on their servers, each beside its raw client doing the same: one durable commit, 64 commits
//! together, 64 claims together, and the latency until a watch delivers a commit: a watch of the same store
//! and, where processes share the records, one of another store (`orch_elsewhere`), which is what the raw
//! client does. `cargo xtask stores up` prints the variables to set; a store whose variable is missing is
//! skipped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use futures_util::{
    StreamExt as _,
    future::{BoxFuture, join_all},
};
use orch_core::store::{Guard, Key, StateStore, Txn, Watch, Write};
use tokio::runtime::Runtime;

#[path = "stores/raw/mod.rs"]
mod raw;

/// Size of a value, in bytes.
const BYTES: usize = 400;

/// Key that watches wait for.
const WATCHED: &str = "watched/one";

/// Counter for numbers that are used once, so that a claim is always a new one.
static NEXT: AtomicU64 = AtomicU64::new(0);

fn next() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Client without a store around it.
trait Raw {
    /// Writes this many records durably, each with the bookkeeping of a store; a claim only writes records
    /// that do not exist.
    fn write(&mut self, together: u64, claim: bool) -> BoxFuture<'_, ()>;

    /// Duration of this many durable writes, one after the other, each until it is written and a notified
    /// reader has the change: another connection, notified by the server, or another task of this process
    /// where there is only a file.
    fn seen(&mut self, times: u64) -> BoxFuture<'_, Duration>;
}

/// Name that no earlier run has used.
fn unused_name() -> String {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    format!("bench_{:x}_{}", time.as_micros(), next())
}

/// Stores that can be measured here: name and URL.
fn stores(dir: &std::path::Path) -> Vec<(&'static str, String)> {
    let name = unused_name();
    let mut stores = vec![
        ("redb", format!("redb://{}/redb", dir.display())),
        ("sqlite", format!("sqlite://{}/sqlite", dir.display())),
    ];
    let variable = |name| std::env::var(name).ok();
    stores.extend(
        variable("ORCH_TEST_POSTGRES")
            .map(|url| ("postgres", format!("{url}?sslmode=disable&schema={name}"))),
    );
    stores.extend(variable("ORCH_TEST_ETCD").map(|members| ("etcd", format!("etcd://{members}/{name}"))));
    stores.extend(variable("ORCH_TEST_REDIS").map(|url| ("redis", format!("{url}?namespace={name}"))));
    stores
}

async fn commit(store: &Arc<dyn StateStore>, together: u64, claim: bool) {
    let all = (0..together).map(|_| {
        let key = Key::new(raw::key(next(), claim)).expect("a valid key");
        let txn = Txn::of(vec![Write::put(key.clone(), vec![7; BYTES])]);
        store.commit(if claim { txn.guarded(Guard::Absent(key)) } else { txn })
    });
    for committed in join_all(all).await {
        committed.expect("it is committed");
    }
}

/// Duration from the call of a commit to the watch's batch. The watch may be another store's on the same
/// records.
async fn seen(store: &Arc<dyn StateStore>, watch: &mut Watch, times: u64) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..times {
        let begin = Instant::now();
        let key = Key::new(WATCHED).expect("a valid key");
        store.commit(Txn::of(vec![Write::put(key, vec![7; BYTES])])).await.expect("it is committed");
        watch.next().await.expect("the watch goes on").expect("the watch goes on");
        total += begin.elapsed();
    }
    total
}

async fn watch(store: &Arc<dyn StateStore>) -> Watch {
    let from = store.head().await.expect("the store answers");
    store.watch("watched/", from).await.expect("a watch")
}

fn all(criterion: &mut Criterion) {
    let dir = tempfile::TempDir::new().expect("a place for files");
    for (name, url) in stores(dir.path()) {
        let runtime = Runtime::new().expect("the system has threads");
        let store = runtime.block_on(orch_store::connect(&url)).expect("the store opens");
        let mut raw = runtime.block_on(raw::open(name, &url, dir.path()));
        for (work, together, claim) in [("commit", 1, false), ("commit", 64, false), ("claim", 64, true)] {
            let mut group = criterion.benchmark_group(format!("stores/{work}_{together}"));
            group
                .sampling_mode(SamplingMode::Flat)
                .sample_size(20)
                .throughput(Throughput::Elements(together));
            group.bench_function(BenchmarkId::new(name, "orch"), |bencher| {
                bencher.iter(|| runtime.block_on(commit(&store, together, claim)));
            });
            if let Some(raw) = &mut raw {
                group.bench_function(BenchmarkId::new(name, "raw"), |bencher| {
                    bencher.iter(|| runtime.block_on(raw.write(together, claim)));
                });
            }
            group.finish();
        }
        let mut group = criterion.benchmark_group("stores/watch");
        group.sampling_mode(SamplingMode::Flat).sample_size(20);
        let mut watch = runtime.block_on(watch(&store));
        group.bench_function(BenchmarkId::new(name, "orch"), |bencher| {
            bencher.iter_custom(|times| runtime.block_on(seen(&store, &mut watch, times)));
        });
        drop(watch);
        if store.capabilities().shared {
            let other = runtime.block_on(orch_store::connect(&url)).expect("the store opens twice");
            let mut watch = runtime.block_on(self::watch(&other));
            group.bench_function(BenchmarkId::new(name, "orch_elsewhere"), |bencher| {
                bencher.iter_custom(|times| runtime.block_on(seen(&store, &mut watch, times)));
            });
            drop(watch);
            runtime.block_on(other.close()).expect("it closes");
        }
        if let Some(raw) = &mut raw {
            group.bench_function(BenchmarkId::new(name, "raw"), |bencher| {
                bencher.iter_custom(|times| runtime.block_on(raw.seen(times)));
            });
        }
        group.finish();
        drop(raw);
        runtime.block_on(store.close()).expect("it closes");
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
