//! Measures the signed store: `cargo run --release -p orch-store --features crdt --example crdt_throughput
//! [dir]`.

use std::{path::PathBuf, sync::Arc, time::Instant};

use orch_core::store::{Key, StateStore, Txn, Write};
use orch_store::crdt::{AuthorKey, CrdtStore, CrdtStoreConfig, Hash, ReplicaConfig};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the numbers are what it is for")]
async fn main() -> Outcome<()> {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = base.join(format!("orch-crdt-throughput-{}", std::process::id()));
    for (writers, txns, writes) in [
        (1, 300, 1),
        (64, 300, 1),
        (8192, 12, 1),
        (1, 100, 1000),
        (4, 25, 1000),
        (4, 100, 1000),
        (1, 4, 25_000),
    ] {
        let store = Arc::new(open(&dir).await?);
        let begin = Instant::now();
        let mut all = Vec::new();
        for writer in 0..writers {
            let store = Arc::clone(&store);
            all.push(tokio::spawn(async move {
                for n in 0..txns {
                    let keys = (0..writes).map(|at| Key::new(format!("tasks/{writer}-{n}-{at:05}")));
                    let writes: Result<_, _> =
                        keys.map(|key| key.map(|key| Write::put(key, vec![7; 100]))).collect();
                    store.commit(Txn::of(writes?)).await?;
                }
                Outcome::Ok(())
            }));
        }
        for one in all {
            one.await??;
        }
        let (puts, seconds) = (writers * txns * writes, begin.elapsed().as_secs_f64());
        store.close().await?;
        let size = std::fs::metadata(dir.join("crdt.redb"))?.len();
        println!(
            "{writers} writers, {txns} transactions of {writes} puts of 100 bytes: {:.0} puts/s, {} bytes on disk each",
            puts as f64 / seconds,
            size / puts as u64,
        );
        std::fs::remove_dir_all(&dir)?;
    }
    let store = open(&dir).await?;
    for round in 1..=100u8 {
        let keys = (0..1000).map(|at| Key::new(format!("nodes/{at:04}")));
        let writes: Result<_, _> = keys.map(|key| key.map(|key| Write::put(key, vec![round; 100]))).collect();
        store.commit(Txn::of(writes?)).await?;
        if [1, 10, 50, 100].contains(&round) {
            let size = std::fs::metadata(dir.join("crdt.redb"))?.len();
            println!("1,000 keys written {round} times: {} KiB on disk", size >> 10);
        }
    }
    store.close().await?;
    Ok(std::fs::remove_dir_all(&dir)?)
}

async fn open(dir: &std::path::Path) -> Outcome<CrdtStore> {
    let key = AuthorKey::from_seed(&[1; 32]);
    let replica = ReplicaConfig::new(Hash::of(b"throughput"), vec![key.author()]);
    Ok(CrdtStore::open(CrdtStoreConfig::new(dir, replica), key).await?)
}
