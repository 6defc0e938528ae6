//! Three orchestrators that agree by Raft: a task submitted to one of them runs on a node of another, and the
//! third knows how it ended. All in one process and in memory; members on machines of their own differ in the
//! transport (`PeerTransport` of `orch-net`) and in `RaftConfig::durable`.
//!
//! `cargo run -p orch-consensus --example raft_cluster --features raft`

mod cluster;

use std::{collections::BTreeMap, error::Error, sync::Arc};

use orch_consensus::raft::{RaftConfig, RaftConsensus};
use orch_core::{
    Orchestrator,
    transport::{InProcessNetwork, PeerId},
};

pub fn main() -> Result<(), Box<dyn Error>> {
    orch_core::block_on(build())
}

async fn build() -> Result<(), Box<dyn Error>> {
    let network = InProcessNetwork::default();
    let founders: BTreeMap<String, PeerId> =
        (1..=3).map(|number| (format!("member-{number}"), PeerId::from_bytes([number; 32]))).collect();
    let mut members = Vec::new();
    for peer in founders.values() {
        let transport = Arc::new(network.join(*peer));
        let consensus = RaftConsensus::new(RaftConfig::new(founders.clone()), transport)?;
        members.push(Orchestrator::builder().consensus(Arc::new(consensus)).build().await?);
    }
    cluster::run_a_task(members).await
}
