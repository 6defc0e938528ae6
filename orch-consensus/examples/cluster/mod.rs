//! Body of the examples of clusters, once their members are built.

use std::{error::Error, sync::Arc};

use orch_core::{
    Orchestrator,
    engine::{Agent, AgentConfig},
    model::{TaskSpec, WorkKind},
    state::TaskStatus,
    testkit::SimulatedRuntime,
};

/// Runs a task: it is submitted to one member, runs on a node of another, and a third one knows how it ended.
pub(crate) async fn run_a_task(members: Vec<Orchestrator>) -> Result<(), Box<dyn Error>> {
    let node = AgentConfig::local("node", [WorkKind::Program])?;
    let agent = Agent::start(node, Arc::new(SimulatedRuntime::new()), members[0].link());
    agent.registered().await?;
    let task = members[1].submit(TaskSpec::program("hello", "true")).await?;
    // What another member decided is here after a barrier.
    members[2].read_barrier().await?;
    assert_eq!(members[2].wait(task).await?.status(), TaskStatus::Succeeded);

    agent.leave().await;
    for member in members {
        member.shutdown().await?;
    }
    Ok(())
}
