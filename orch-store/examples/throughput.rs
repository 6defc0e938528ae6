//! Measures the redb store: `cargo run --release -p orch-store --features redb --example throughput [dir]`.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use orch_core::store::{Key, StateStore, Txn, Write};
use orch_store::redb::{RedbStore, RedbStoreConfig, SyncPolicy};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the numbers are what it is for")]
async fn main() -> Outcome<()> {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    for sync in [SyncPolicy::EachCommit, SyncPolicy::Interval(Duration::from_millis(100))] {
        for (writers, each) in [(1, 500), (64, 300), (1024, 60), (8192, 10)] {
            let dir = base.join(format!("orch-store-throughput-{}", std::process::id()));
            let store: Arc<dyn StateStore> =
                Arc::new(RedbStore::open(RedbStoreConfig { sync, ..RedbStoreConfig::new(&dir) }).await?);
            let took = run(&store, writers, each).await?;
            store.close().await?;
            std::fs::remove_dir_all(&dir)?;
            let (commits, seconds) = (writers * each, took.as_secs_f64());
            println!(
                "{sync:?}: {writers} writers, {commits} commits of 100 bytes: {:.0}/s, {:.3} ms each as seen by a writer",
                commits as f64 / seconds,
                seconds * 1e3 / each as f64,
            );
        }
    }
    raw(&base)
}

async fn run(store: &Arc<dyn StateStore>, writers: usize, each: usize) -> Outcome<Duration> {
    let begin = Instant::now();
    let mut all = Vec::new();
    for writer in 0..writers {
        let store = Arc::clone(store);
        all.push(tokio::spawn(async move {
            for n in 0..each {
                let key = Key::new(format!("tasks/{writer}-{n}"))?;
                store.commit(Txn::of(vec![Write::put(key, vec![7; 100])])).await?;
            }
            Outcome::Ok(())
        }));
    }
    for one in all {
        one.await??;
    }
    Ok(begin.elapsed())
}

/// The same without orch: one insert and one commit of redb at a time.
#[expect(clippy::print_stdout, reason = "the numbers are what it is for")]
fn raw(base: &std::path::Path) -> Outcome<()> {
    const TABLE: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("t");
    let file = base.join(format!("orch-store-raw-{}.redb", std::process::id()));
    let database = redb::Database::create(&file)?;
    let begin = Instant::now();
    for n in 0..500 {
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?.insert(format!("tasks/{n}").as_str(), [7; 100].as_slice())?;
        transaction.commit()?;
    }
    println!("redb alone: {:.3} ms each", begin.elapsed().as_secs_f64() * 1e3 / 500.0);
    drop(database);
    Ok(std::fs::remove_file(file)?)
}
