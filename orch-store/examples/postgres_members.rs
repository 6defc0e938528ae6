//! Two orchestrators that decide over one PostgreSQL database, with an agent that talks to one of them. Either may end: the
//! records are in the database.
//!
//! `cargo run -p orch-store --example postgres_members --features postgres postgres://user@localhost/database`

use std::{error::Error, sync::Arc};

use orch_core::{
    Orchestrator,
    consensus::StoreConsensus,
    engine::{Agent, AgentConfig},
    model::{TaskSpec, WorkKind},
    state::TaskStatus,
    store::StateStore,
    testkit::SimulatedRuntime,
};
use orch_store::postgres::{PostgresStore, PostgresStoreConfig};

pub fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).ok_or("usage: postgres_members postgres://user@host/database")?;
    orch_core::block_on(members(PostgresStoreConfig::from_url(&url)?))
}

pub async fn members(config: PostgresStoreConfig) -> Result<(), Box<dyn Error>> {
    let mut members = Vec::new();
    for name in ["one", "two"] {
        let store: Arc<dyn StateStore> = Arc::new(PostgresStore::open(config.clone()).await?);
        let consensus = Arc::new(StoreConsensus::named(store.clone(), name));
        members.push(Orchestrator::builder().store(store).consensus(consensus).build().await?);
    }

    let node = AgentConfig::local("node", [WorkKind::Program])?;
    let agent = Agent::start(node, Arc::new(SimulatedRuntime::new()), members[0].link());
    agent.registered().await?;
    let task = members[1].submit(TaskSpec::program("hello", "true")).await?;
    assert_eq!(members[1].wait(task).await?.status(), TaskStatus::Succeeded);

    agent.leave().await;
    for member in members {
        member.shutdown().await?;
    }
    Ok(())
}
