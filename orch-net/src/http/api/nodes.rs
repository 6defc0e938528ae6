//! Nodes and the state of the cluster.

use std::time::Duration;

use axum::{Json as Answer, extract::State};
use orch_core::model::NodeId;

use super::app::App;
use crate::http::shell::{Id, Json, Problem};
use crate::http::wire::{Decided, Drain, NodeInfo, NodeList, StatusInfo};

type Result<T> = std::result::Result<Answer<T>, Problem>;

pub(super) async fn list(State(app): State<App>) -> Answer<NodeList> {
    Answer(NodeList { nodes: app.embedded.all_nodes() })
}

pub(super) async fn get(State(app): State<App>, Id(node): Id<NodeId>) -> Result<NodeInfo> {
    app.embedded.known_node(node).map(Answer)
}

pub(super) async fn cordon(State(app): State<App>, Id(node): Id<NodeId>) -> Result<Decided> {
    let outcome = app.embedded.orchestrator().cordon(&node).await?;
    Ok(Answer(Decided { outcome }))
}

pub(super) async fn uncordon(State(app): State<App>, Id(node): Id<NodeId>) -> Result<Decided> {
    let outcome = app.embedded.orchestrator().uncordon(&node).await?;
    Ok(Answer(Decided { outcome }))
}

pub(super) async fn drain(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    Json(Drain { grace_ms }): Json<Drain>,
) -> Result<Decided> {
    let outcome = app.embedded.orchestrator().drain(&node, Duration::from_millis(grace_ms)).await?;
    Ok(Answer(Decided { outcome }))
}

pub(super) async fn remove(State(app): State<App>, Id(node): Id<NodeId>) -> Result<Decided> {
    let outcome = app.embedded.orchestrator().remove(&node).await?;
    Ok(Answer(Decided { outcome }))
}

pub(super) async fn status(State(app): State<App>) -> Answer<StatusInfo> {
    Answer(app.embedded.summary())
}
