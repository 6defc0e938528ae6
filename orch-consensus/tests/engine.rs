//! The engine over replicated logs: what one member takes in, all decide alike, and a task runs once wherever it was asked for.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{sync::Arc, time::Duration};

use orch_consensus::{
    pbft::{Ed25519Signer, PbftConfig, PbftConsensus, Signer},
    raft::{RaftConfig, RaftConsensus, Storage},
};
use orch_core::{
    Orchestrator,
    consensus::Consensus,
    engine::{Agent, AgentConfig, EngineConfig, EventKind},
    model::{Resources, TaskId, TaskSpec, WorkKind},
    state::ClusterConfig,
    testkit::SimulatedRuntime,
    transport::{Channel, InProcessConfig, InProcessNetwork, PeerId},
};

/// Longer than anything here takes on a slow machine, so that a hang has a name.
const PATIENCE: Duration = Duration::from_secs(60);

async fn member(number: usize, consensus: Arc<dyn Consensus>, suspicions_needed: usize) -> Orchestrator {
    let engine = EngineConfig { member: format!("member-{number}"), ..EngineConfig::default() };
    let cluster = ClusterConfig { suspicions_needed, ..ClusterConfig::default() };
    Orchestrator::builder().consensus(consensus).engine(engine).cluster(cluster).build().await.unwrap()
}

async fn raft_group() -> Vec<Orchestrator> {
    let network = InProcessNetwork::new(InProcessConfig::default());
    let peer = |number: usize| PeerId::from_bytes([u8::try_from(number + 1).unwrap(); 32]);
    let names = (0..3).map(|number| (format!("member-{number}"), peer(number)));
    let config = RaftConfig::new(names.collect(), Channel(3), Storage::Memory);
    let mut members = Vec::new();
    for number in 0..3 {
        let transport = Arc::new(network.join(peer(number)));
        let consensus = RaftConsensus::new(config.clone(), transport).unwrap();
        members.push(tokio::spawn(member(number, Arc::new(consensus), 1)));
    }
    let mut started = Vec::new();
    for member in members {
        started.push(member.await.unwrap());
    }
    started
}

async fn pbft_group() -> Vec<Orchestrator> {
    let network = InProcessNetwork::new(InProcessConfig::default());
    let signer = |number: usize| Ed25519Signer::from_seed(&[u8::try_from(number + 1).unwrap(); 32]);
    let peer = |number: usize| PeerId::from_bytes(signer(number).public_key().0);
    let names = (0..4).map(|number| (format!("member-{number}"), peer(number)));
    let config = PbftConfig::new("engine", names.collect());
    let mut members = Vec::new();
    for number in 0..4 {
        let transport = Arc::new(network.join(peer(number)));
        let consensus = PbftConsensus::new(config.clone(), Arc::new(signer(number)), transport).unwrap();
        members.push(tokio::spawn(member(number, Arc::new(consensus), 2)));
    }
    let mut started = Vec::new();
    for member in members {
        started.push(member.await.unwrap());
    }
    started
}

/// Waits until a member knows how a task ended.
async fn ended(orch: &Orchestrator, task: TaskId) -> String {
    let waited = tokio::time::timeout(PATIENCE, async {
        let mut events = orch.events();
        while orch.get(task).is_none() {
            if let EventKind::Task(_) = events.next().await.unwrap().unwrap().kind {}
        }
        orch.wait(task).await.unwrap().status().to_string()
    });
    waited.await.expect("the task ends")
}

/// A task that one member takes in runs on a node that talks to another, and a third one knows how it ended.
async fn a_task_crosses_the_group(members: &[Orchestrator]) {
    let runtime = SimulatedRuntime::default();
    let mut config = AgentConfig::local("node", [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(4000, 4 << 30);
    let agent = Agent::start(config, Arc::new(runtime), members[0].link());
    agent.registered().await.unwrap();
    for round in 0..10 {
        let task = members[1].submit(TaskSpec::program(format!("round-{round}"), "true")).await.unwrap();
        for member in members {
            assert_eq!(ended(member, task).await, "succeeded");
        }
    }
    agent.leave().await;
    for member in members {
        member.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_cross_a_raft_group() {
    a_task_crosses_the_group(&raft_group().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_cross_a_pbft_group() {
    a_task_crosses_the_group(&pbft_group().await).await;
}
