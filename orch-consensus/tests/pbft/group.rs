//! Groups whose members live in this process.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use orch_consensus::pbft::{Ed25519Signer, PbftConfig, PbftConsensus, Signer};
use orch_core::{
    consensus::{Consensus, ConsensusStatus, MemberId},
    transport::{InProcessNetwork, InProcessTransport, PeerId},
};

use crate::machine::Journal;

/// Longer than anything takes on a slow machine, so that a hang has a name.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn signer(number: usize) -> Ed25519Signer {
    Ed25519Signer::from_seed(&[u8::try_from(number + 1).unwrap(); 32])
}

pub(crate) fn peer(number: usize) -> PeerId {
    signer(number).peer()
}

pub(crate) fn name(number: usize) -> String {
    format!("member-{number}")
}

pub(crate) fn id(number: usize) -> MemberId {
    name(number).parse().unwrap()
}

/// Configuration of the members of a group of `count`, also of those that join later.
pub(crate) fn config(count: usize) -> PbftConfig {
    let mut config = PbftConfig::new("test", (0..count).map(|number| (name(number), peer(number))));
    config.core.request_timeout = Duration::from_millis(500);
    config.core.request_timeout_max = Duration::from_secs(2);
    config.core.status_interval = Duration::from_millis(100);
    config
}

/// A group, and where its members keep their logs.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) config: PbftConfig,
    pub(crate) network: InProcessNetwork,
    directory: Option<PathBuf>,
}

/// A started member and its machine.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) consensus: Arc<PbftConsensus>,
    pub(crate) machine: Journal,
}

impl Group {
    pub(crate) fn new(count: usize, directory: Option<&Path>) -> Self {
        let directory = directory.map(Path::to_owned);
        Self { config: config(count), network: InProcessNetwork::default(), directory }
    }

    pub(crate) fn join(&self, number: usize) -> Arc<InProcessTransport> {
        Arc::new(self.network.join(peer(number)))
    }

    pub(crate) fn directory(&self, number: usize) -> PathBuf {
        self.directory.as_ref().expect("a durable group").join(name(number))
    }

    pub(crate) fn config_of(&self, number: usize) -> PbftConfig {
        match &self.directory {
            Some(_) => self.config.clone().durable(self.directory(number)),
            None => self.config.clone(),
        }
    }

    pub(crate) fn member(&self, number: usize) -> Arc<PbftConsensus> {
        let member = PbftConsensus::new(self.config_of(number), Arc::new(signer(number)), self.join(number));
        Arc::new(member.unwrap())
    }

    pub(crate) async fn start(&self, number: usize) -> Member {
        let (consensus, machine) = (self.member(number), Journal::default());
        consensus.start(Box::new(machine.clone())).await.unwrap();
        Member { consensus, machine }
    }

    pub(crate) async fn start_all(&self, count: usize) -> Vec<Member> {
        let mut members = Vec::new();
        for number in 0..count {
            members.push(self.start(number).await);
        }
        members
    }
}

impl Member {
    /// Has `text` written down, however often it takes.
    pub(crate) async fn propose(&self, text: &str) {
        let proposal = self.consensus.propose(text.to_owned().into());
        let answer =
            tokio::time::timeout(DEADLINE, proposal).await.unwrap_or_else(|_| panic!("{text} hangs"));
        answer.unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    /// Waits until the machine satisfies `wanted`.
    pub(crate) async fn sees(&self, what: &str, wanted: impl FnMut(&Vec<String>) -> bool) {
        let mut lines = self.machine.lines();
        let seen = tokio::time::timeout(DEADLINE, lines.wait_for(wanted)).await;
        assert!(seen.is_ok(), "not seen: {what}; {:?}", self.consensus.status());
    }

    /// Waits until the status satisfies `wanted`; its changes are not signalled.
    pub(crate) async fn reports(&self, what: &str, wanted: impl Fn(&ConsensusStatus) -> bool) {
        let reached = async {
            while !wanted(&self.consensus.status()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = tokio::time::timeout(DEADLINE, reached).await;
        assert!(reached.is_ok(), "not reached: {what}; {:?}", self.consensus.status());
    }
}

pub(crate) async fn shut_down(members: Vec<Member>) {
    for member in members {
        member.consensus.shutdown().await;
    }
}
