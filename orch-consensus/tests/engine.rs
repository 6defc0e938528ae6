//! The engine over replicated logs: a task submitted to one member is decided alike by all, and runs once.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use orch_consensus::{
    pbft::{Ed25519Signer, PbftConfig, PbftConsensus, Signer},
    raft::{RaftConfig, RaftConsensus},
};
use orch_core::{
    Orchestrator,
    consensus::Consensus,
    engine::{Agent, AgentConfig, EventKind},
    model::{Resources, TaskId, TaskSpec, WorkKind},
    state::{ClusterConfig, TaskStatus},
    testkit::SimulatedRuntime,
    transport::{Channel, Demux, DemuxConfig, InProcessConfig, InProcessNetwork, PeerId, Transport},
};

/// Longer than anything here takes on a slow machine, so that a hang has a name.
const DEADLINE: Duration = Duration::from_secs(60);

const PBFT: Channel = Channel(0);
const RAFT: Channel = Channel(3);

async fn member(consensus: Arc<dyn Consensus>, suspicions_needed: usize) -> Orchestrator {
    let cluster = ClusterConfig { suspicions_needed, ..ClusterConfig::default() };
    Orchestrator::builder().consensus(consensus).cluster(cluster).build().await.unwrap()
}

fn signer(number: usize) -> Ed25519Signer {
    Ed25519Signer::from_seed(&[u8::try_from(number + 1).unwrap(); 32])
}

fn peer(number: usize) -> PeerId {
    signer(number).peer()
}

/// Names and ids of the members of a group.
fn names(members: usize) -> impl Iterator<Item = (String, PeerId)> {
    (0..members).map(|number| (format!("member-{number}"), peer(number)))
}

async fn raft_group(transports: Vec<Arc<dyn Transport>>) -> Vec<Orchestrator> {
    let config = RaftConfig { channel: RAFT, ..RaftConfig::new(names(transports.len())) };
    let consensus = |transport| Arc::new(RaftConsensus::new(config.clone(), transport).unwrap()) as Arc<_>;
    start(transports.into_iter().map(consensus).collect(), 1).await
}

async fn pbft_group(transports: Vec<Arc<dyn Transport>>) -> Vec<Orchestrator> {
    let config = PbftConfig { channel: PBFT, ..PbftConfig::new("engine", names(transports.len())) };
    let consensus = |(number, transport)| {
        let signer = Arc::new(signer(number));
        Arc::new(PbftConsensus::new(config.clone(), signer, transport).unwrap()) as Arc<_>
    };
    start(transports.into_iter().enumerate().map(consensus).collect(), 2).await
}

async fn start(group: Vec<Arc<dyn Consensus>>, suspicions_needed: usize) -> Vec<Orchestrator> {
    join_all(group.into_iter().map(|consensus| member(consensus, suspicions_needed))).await
}

fn network_of(members: usize) -> Vec<Arc<dyn Transport>> {
    let network = InProcessNetwork::new(InProcessConfig::default());
    (0..members).map(|number| Arc::new(network.join(peer(number))) as Arc<dyn Transport>).collect()
}

/// Waits until a member knows how a task ended.
async fn ended(orch: &Orchestrator, task: TaskId) -> TaskStatus {
    let waited = tokio::time::timeout(DEADLINE, async {
        let mut events = orch.events();
        while orch.get(task).is_none() {
            if let EventKind::Task(_) = events.next().await.unwrap().unwrap().kind {}
        }
        orch.wait(task).await.unwrap().status()
    });
    waited.await.expect("the task ends")
}

/// A task submitted to one member runs on a node connected to another, and a third one knows how it ended.
async fn a_task_crosses_the_group(members: &[Orchestrator]) {
    let runtime = SimulatedRuntime::default();
    let mut config = AgentConfig::local("node", [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(4000, 4 << 30);
    let agent = Agent::start(config, Arc::new(runtime), members[0].link());
    agent.registered().await.unwrap();
    for round in 0..10 {
        let task = members[1].submit(TaskSpec::program(format!("round-{round}"), "true")).await.unwrap();
        for member in members {
            assert_eq!(ended(member, task).await, TaskStatus::Succeeded);
        }
    }
    agent.leave().await;
    for member in members {
        member.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_cross_a_raft_group() {
    a_task_crosses_the_group(&raft_group(network_of(3)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_cross_a_pbft_group() {
    a_task_crosses_the_group(&pbft_group(network_of(4)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_groups_share_a_transport() {
    let part = |transport: &Arc<dyn Transport>| {
        let demux = Demux::new(transport.clone(), DemuxConfig::default());
        let part = |channels: &[Channel]| {
            Arc::new(demux.open(channels.iter().copied()).unwrap()) as Arc<dyn Transport>
        };
        (part(&[PBFT, Channel(PBFT.0 + 1)]), part(&[RAFT]))
    };
    let (pbft, raft) = network_of(4).iter().map(part).unzip();
    let (pbft, raft) = tokio::join!(pbft_group(pbft), raft_group(raft));
    tokio::join!(a_task_crosses_the_group(&pbft), a_task_crosses_the_group(&raft));
}
