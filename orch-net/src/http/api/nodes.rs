//! Nodes and the state of the cluster.

use std::time::Duration;

use axum::{Json as Answer, extract::State};
use orch_core::{engine::Unknown, model::NodeId};

use super::app::App;
use crate::http::shell::{Id, Json, Problem};
use crate::http::wire::{ConsensusInfo, Decided, Drain, NodeInfo, NodeList, StatusInfo};

type Result<T> = std::result::Result<Answer<T>, Problem>;

pub(super) async fn list(State(app): State<App>) -> Answer<NodeList> {
    Answer(NodeList { nodes: app.orchestrator.nodes().into_iter().map(NodeInfo::from).collect() })
}

pub(super) async fn get(State(app): State<App>, Id(node): Id<NodeId>) -> Result<NodeInfo> {
    let known = app.orchestrator.node(&node).ok_or(orch_core::Error::from(Unknown::Node(node)))?;
    Ok(Answer(known.into()))
}

pub(super) async fn cordon(State(app): State<App>, Id(node): Id<NodeId>) -> Result<Decided> {
    let outcome = app.orchestrator.cordon(&node).await?;
    Ok(Answer(Decided { outcome }))
}

pub(super) async fn uncordon(State(app): State<App>, Id(node): Id<NodeId>) -> Result<Decided> {
    let outcome = app.orchestrator.uncordon(&node).await?;
    Ok(Answer(Decided { outcome }))
}

pub(super) async fn drain(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    Json(Drain { grace_ms }): Json<Drain>,
) -> Result<Decided> {
    let outcome = app.orchestrator.drain(&node, Duration::from_millis(grace_ms)).await?;
    Ok(Answer(Decided { outcome }))
}

pub(super) async fn remove(State(app): State<App>, Id(node): Id<NodeId>) -> Result<Decided> {
    let outcome = app.orchestrator.remove(&node).await?;
    Ok(Answer(Decided { outcome }))
}

pub(super) async fn status(State(app): State<App>) -> Answer<StatusInfo> {
    let status = app.orchestrator.status();
    Answer(StatusInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        revision: status.revision,
        tasks: status.tasks,
        scheduler_error: status.scheduler_error,
        consensus: ConsensusInfo {
            applied: status.consensus.applied,
            leader: status.consensus.leader,
            members: status.consensus.members.iter().map(ToString::to_string).collect(),
            last_error: status.consensus.last_error,
        },
    })
}
