//! The protocol of workers: [`ControlLink`](orch_core::engine::ControlLink), call by call.

use axum::{Json as Answer, extract::State, http::StatusCode};
use orch_core::{
    engine::{Assignments, Cursor, Registration},
    model::{NodeId, NodeSpec},
};

use super::{
    app::App,
    extract::{Id, Params, WorkerJson, value},
    problem::{Problem, kinds},
};
use crate::http::wire::{Heartbeat, Observations, ReportAnswers, Reports};

type Result<T> = std::result::Result<T, Problem>;

pub(super) async fn register(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    WorkerJson(spec): WorkerJson<NodeSpec>,
) -> Result<Answer<Registration>> {
    if spec.id != node {
        return Err(Problem::new(kinds::REFUSED, "a node may register itself only").at("id"));
    }
    Ok(Answer(app.link.register(spec).await?))
}

pub(super) async fn heartbeat(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    WorkerJson(Heartbeat { instance }): WorkerJson<Heartbeat>,
) -> Result<StatusCode> {
    app.link.heartbeat(&node, instance).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn assignments(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    params: Params,
) -> Result<Answer<Assignments>> {
    let (mut epoch, mut position) = (None, None);
    params.each(|name, text| {
        match name {
            "epoch" => epoch = Some(value(name, &text)?),
            "position" => position = Some(value(name, &text)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let after = match (epoch, position) {
        (Some(epoch), Some(position)) => Some(Cursor { epoch, position }),
        (None, None) => None,
        _ => return Err(Problem::new(kinds::MALFORMED, "epoch and position belong together").at("query")),
    };
    tokio::select! {
        biased;
        told = app.link.assignments(&node, after) => Ok(Answer(told?)),
        () = app.closed() => Err(Problem::new(kinds::SHUTTING_DOWN, "ask again")),
    }
}

pub(super) async fn report(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    WorkerJson(Reports { reports }): WorkerJson<Reports>,
) -> Result<Answer<ReportAnswers>> {
    Ok(Answer(ReportAnswers { answers: app.link.report(&node, reports).await? }))
}

pub(super) async fn observe(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    WorkerJson(Observations { observations }): WorkerJson<Observations>,
) -> Result<StatusCode> {
    app.link.observe(&node, observations).await?;
    Ok(StatusCode::NO_CONTENT)
}
