//! The protocol of workers: [`ControlLink`](orch_core::engine::ControlLink), call by call.

use axum::{Json as Answer, extract::State, http::StatusCode};
use orch_core::{
    engine::{Assignments, AssignmentsQuery, Registered, Registration, Reported},
    model::{NodeId, Session},
};

use super::{app::App, problems::kinds};
use crate::http::shell::{Id, Problem, WorkerJson};
use crate::http::wire::{Heartbeat, Observations, Question, Reports};

type Result<T> = std::result::Result<T, Problem>;

pub(super) async fn register(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    WorkerJson(registration): WorkerJson<Registration>,
) -> Result<Answer<Registered>> {
    if registration.spec.id != node {
        return Err(Problem::new(kinds::REFUSED, "a node may register itself only").at("spec.id"));
    }
    Ok(Answer(app.link.register(registration).await?))
}

pub(super) async fn heartbeat(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    WorkerJson(Heartbeat { session }): WorkerJson<Heartbeat>,
) -> Result<StatusCode> {
    check_own(&node, &session)?;
    app.link.heartbeat(&session).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn assignments(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    WorkerJson(Question { session, after, specs_after, at_least }): WorkerJson<Question>,
) -> Result<Answer<Assignments>> {
    check_own(&node, &session)?;
    let query = AssignmentsQuery { after, specs_after, at_least };
    tokio::select! {
        biased;
        told = app.link.assignments(&session, query) => Ok(Answer(told?)),
        () = app.closed() => Err(Problem::new(kinds::SHUTTING_DOWN, "ask again")),
    }
}

pub(super) async fn report(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    WorkerJson(Reports { session, reports }): WorkerJson<Reports>,
) -> Result<Answer<Reported>> {
    check_own(&node, &session)?;
    Ok(Answer(app.link.report(&session, reports).await?))
}

pub(super) async fn observe(
    State(app): State<App>,
    Id(node): Id<NodeId>,
    WorkerJson(Observations { session, observations }): WorkerJson<Observations>,
) -> Result<StatusCode> {
    check_own(&node, &session)?;
    app.link.observe(&session, observations).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The path names the node for people who read logs; it must not name another one than the session does.
fn check_own(node: &NodeId, session: &Session) -> Result<()> {
    match session.node == *node {
        true => Ok(()),
        false => {
            let detail = format!("the session is of node {}, the path of node {node}", session.node);
            Err(Problem::new(kinds::REFUSED, detail).at("session.node"))
        }
    }
}
