//! Groups of orch, on the network in the process that comes with orch.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use orch_consensus::{
    pbft::{Ed25519Signer, PbftConfig, PbftConsensus, Signer, View},
    raft::{RaftConfig, RaftConsensus},
};
use orch_core::{
    consensus::Consensus,
    testkit::Counter,
    transport::{InProcessConfig, InProcessNetwork, PeerId},
};
use tokio::runtime::Runtime;

use crate::{Failure, Figures, Group, Load, load::closed_loop};

/// Members of one group in this process.
pub struct OrchGroup {
    runtime: Runtime,
    members: Vec<Arc<dyn Consensus>>,
    leader: Arc<dyn Consensus>,
}

impl fmt::Debug for OrchGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrchGroup").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

fn network() -> Result<InProcessNetwork, Failure> {
    let queue_messages = 16_384.try_into()?;
    Ok(InProcessNetwork::new(InProcessConfig { queue_messages, ..InProcessConfig::default() }))
}

impl OrchGroup {
    /// Three members of Raft.
    ///
    /// # Errors
    /// They did not start, or have no leader.
    pub fn raft() -> Result<Self, Failure> {
        let runtime = Runtime::new()?;
        let network = network()?;
        let peers: BTreeMap<String, PeerId> =
            (1..=3u8).map(|number| (format!("m{number}"), PeerId::from_bytes([number; 32]))).collect();
        let members = runtime.block_on(async {
            let mut members: Vec<Arc<dyn Consensus>> = Vec::new();
            for peer in peers.values() {
                let config = RaftConfig::new(peers.clone());
                let raft = Arc::new(RaftConsensus::new(config, Arc::new(network.join(*peer)))?);
                raft.start(Box::new(Counter::default())).await?;
                members.push(raft);
            }
            for raft in &members {
                raft.propose(Bytes::from_static(b"begin")).await?;
            }
            Ok::<_, Failure>(members)
        })?;
        let leader = members.iter().find(|raft| raft.status().leader).ok_or("nobody leads")?.clone();
        Ok(Self { runtime, members, leader })
    }

    /// So many members of PBFT.
    ///
    /// # Errors
    /// They did not start, or cannot be so many.
    pub fn pbft(count: u8) -> Result<Self, Failure> {
        let runtime = Runtime::new()?;
        let network = network()?;
        let signers: Vec<_> = (1..=count).map(|number| Ed25519Signer::from_seed(&[number; 32])).collect();
        let names = signers.iter().enumerate().map(|(at, signer)| (format!("m{at}"), signer.peer()));
        let config = PbftConfig::new("load", names);
        let first = config.genesis()?.primary(View(0)).key;
        let (mut members, mut leader): (Vec<Arc<dyn Consensus>>, _) = (Vec::new(), None);
        runtime.block_on(async {
            for signer in signers {
                let (transport, leads) = (network.join(signer.peer()), signer.public_key() == first);
                let member =
                    Arc::new(PbftConsensus::new(config.clone(), Arc::new(signer), Arc::new(transport))?);
                member.start(Box::new(Counter::default())).await?;
                if leads {
                    leader = Some(member.clone());
                }
                members.push(member);
            }
            Ok::<_, Failure>(())
        })?;
        let leader = leader.ok_or("nobody leads")?;
        runtime.block_on(leader.propose(Bytes::from_static(b"begin")))?;
        Ok(Self { runtime, members, leader })
    }

    /// Number of batches that the leader has applied, where a batch is what is agreed on at once.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.leader.status().applied.0
    }
}

impl Group for OrchGroup {
    fn run(&mut self, load: &Load) -> Result<Figures, Failure> {
        let leader = self.leader.clone();
        let propose = move |command| {
            let leader = leader.clone();
            async move { Ok(leader.propose(command).await.map(drop)?) }
        };
        self.runtime.block_on(closed_loop(load, propose))
    }

    fn stop(self: Box<Self>) {
        self.runtime.block_on(async {
            for member in &self.members {
                member.shutdown().await;
            }
        });
    }
}
