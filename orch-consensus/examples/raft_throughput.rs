//! Proposals per second of three members in one process, on a network inside it: `cargo run --release -p
//! orch-consensus --features raft --example raft_throughput -- [memory|written|synced] [CALLERS...]`.

#![expect(clippy::print_stdout, reason = "it is a program that prints")]

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use orch_consensus::raft::{RaftConfig, RaftConsensus, Storage};
use orch_core::{
    consensus::Consensus,
    testkit::Counter,
    transport::{InProcessNetwork, PeerId},
};

/// Counts the proposals of one task, one after the other, until the end.
async fn call(raft: Arc<RaftConsensus>, until: Instant, done: Arc<AtomicU64>) {
    let command = Bytes::from_static(&[7; 64]);
    while Instant::now() < until {
        if raft.propose(command.clone()).await.is_ok() {
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn measure(storage: &str, callers: usize, at_leader: bool) -> Result<f64, Box<dyn Error>> {
    let network = InProcessNetwork::default();
    let directory = std::env::temp_dir().join(format!("raft-throughput-{}", std::process::id()));
    let peers: BTreeMap<String, PeerId> =
        (1..=3u8).map(|number| (format!("m{number}"), PeerId::from_bytes([number; 32]))).collect();
    let mut members = Vec::new();
    for (name, peer) in &peers {
        let directory = directory.join(name);
        let storage = match storage {
            "written" => Storage::Written { directory, interval: Duration::from_millis(100) },
            "synced" => Storage::Synced { directory },
            _ => Storage::Memory,
        };
        let config = RaftConfig { storage, ..RaftConfig::new(peers.clone()) };
        let raft = Arc::new(RaftConsensus::new(config, Arc::new(network.join(*peer)))?);
        raft.start(Box::new(Counter::default())).await?;
        members.push(raft);
    }
    for raft in &members {
        raft.propose(Bytes::from_static(b"begin")).await?;
    }
    let target = members.iter().find(|raft| raft.status().leader == at_leader).ok_or("no such member")?;
    let (done, begun, time) = (Arc::new(AtomicU64::new(0)), Instant::now(), Duration::from_secs(4));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        tasks.spawn(call(target.clone(), begun + time, done.clone()));
    }
    tasks.join_all().await;
    let rate = done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    for raft in &members {
        raft.shutdown().await;
    }
    if directory.exists() {
        std::fs::remove_dir_all(directory)?;
    }
    Ok(rate)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let storage = arguments.next().unwrap_or_else(|| "memory".into());
    let mut callers = arguments.map(|text| text.parse()).collect::<Result<Vec<usize>, _>>()?;
    if callers.is_empty() {
        callers = vec![1, 64, 256, 1024];
    }
    for callers in callers {
        for (at_leader, role) in [(true, "leader"), (false, "follower")] {
            let rate = measure(&storage, callers, at_leader).await?;
            println!("{storage}, {callers} callers at the {role}: {rate:.0} proposals/s");
        }
    }
    Ok(())
}
