//! Four orchestrators that agree by PBFT, of which one may be Byzantine. It differs from `raft_cluster` in
//! the line that makes the consensus, in a key for each member, and in the two suspicions that a node's loss
//! takes.
//!
//! `cargo run -p orch-consensus --example pbft_cluster --features pbft`

mod cluster;

use std::{collections::BTreeMap, error::Error, sync::Arc};

use orch_consensus::pbft::{Ed25519Signer, PbftConfig, PbftConsensus, Signer};
use orch_core::{
    Orchestrator,
    state::ClusterConfig,
    transport::{InProcessNetwork, PeerId},
};

pub fn main() -> Result<(), Box<dyn Error>> {
    orch_core::block_on(build())
}

async fn build() -> Result<(), Box<dyn Error>> {
    let network = InProcessNetwork::default();
    // A member's seed is its secret: kept in a private file, and never the same as here.
    let signers: Vec<_> = (1..=4).map(|number| Ed25519Signer::from_seed(&[number; 32])).collect();
    let founders: BTreeMap<String, PeerId> =
        (1..).zip(&signers).map(|(number, signer)| (format!("member-{number}"), signer.peer())).collect();
    let mut members = Vec::new();
    for signer in signers {
        let transport = Arc::new(network.join(signer.peer()));
        let config = PbftConfig::new("example", founders.clone());
        let consensus = PbftConsensus::new(config, Arc::new(signer), transport)?;
        let cluster = ClusterConfig { suspicions_needed: 2, ..ClusterConfig::default() };
        let parts = Orchestrator::builder().consensus(Arc::new(consensus)).cluster(cluster);
        members.push(parts.build().await?);
    }
    cluster::run_a_task(members).await
}
