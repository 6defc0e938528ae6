//! Their three requests.

use std::collections::VecDeque;

use axum::{
    Json as Answer,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
};
use orch_core::{
    engine::{Observation, ObservationKind, ReportAnswer, TaskFilter, TaskView, Unknown},
    model::{
        AttemptEnd, AttemptId, CommandId, Exit, NodeId, Report, ReportKind, StartFailure, TaskId, Timestamp,
    },
    state::{NewTask, TaskStatus},
};
use orch_net::http::{
    kinds,
    shell::{Params, Problem, parse},
};
use serde::Deserialize;

use super::{
    App, Manager,
    offers::{Offer, Offers},
    task::Task,
};
use crate::rust_orch::wire::{Status, Work};

type Result<T> = std::result::Result<T, Problem>;

/// The most tasks of one answer, the newest.
const LISTED_MAX: usize = 10_000;

/// Their worker starts everything that it sees here under its name, whatever the status: only what is placed
/// and was not seen running may be listed, unless `all` is asked for.
pub(super) async fn list(State(app): State<App>, params: Params) -> Result<Answer<Vec<Task>>> {
    let mut all = false;
    params.each(|name, text| {
        all |= name == "all" && matches!(text.as_str(), "1" | "true");
        Ok(true)
    })?;
    let statuses = if all { Vec::new() } else { vec![TaskStatus::Placed] };
    let mut filter = TaskFilter { statuses, limit: 1000, ..TaskFilter::default() };
    let (mut newest, mut offers) = (VecDeque::new(), Vec::new());
    loop {
        let page = app.orchestrator.list(&filter);
        let Some(last) = page.last() else { break };
        filter.after_seq = Some(last.record.seq);
        offers.extend(page.iter().filter(|_| !all).filter_map(|task| Offer::of(&app, task)));
        newest.extend(page.iter().map(Task::from));
        newest.drain(..newest.len().saturating_sub(LISTED_MAX));
    }
    if !all && let Err(problem) = Offers::note(&app, &offers).await {
        tracing::warn!(?problem, "what rust-orch workers are told is not noted");
    }
    Ok(Answer(newest.into()))
}

pub(super) async fn submit(State(app): State<App>, body: Body) -> Result<(StatusCode, Answer<Task>)> {
    let body = app.shell.read(body, app.shell.limits().body_bytes_max).await?;
    let spec = parse::<Work>(&body)?.into_spec()?;
    let id = TaskId::generate();
    let new = vec![NewTask { id, spec: spec.into() }];
    app.orchestrator.submit_as(CommandId::generate(), new).await?;
    Ok((StatusCode::CREATED, Answer(Task::from(&known(&app, id)?))))
}

/// Update of their worker about a task.
#[derive(Debug, Deserialize)]
pub(super) struct Update {
    status: Status,
    container_id: Option<String>,
}

/// Applies an update of a worker; answers when it is durable.
pub(super) async fn set_status(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Body,
) -> Result<StatusCode> {
    let unknown = || Problem::new(kinds::UNKNOWN_TASK, "there is no task with this id");
    let id: TaskId = id.parse().map_err(|_| unknown())?;
    let update: Update = parse(&app.shell.read(body, app.shell.limits().body_bytes_max).await?)?;
    let task = known(&app, id)?;
    let (attempt, node) = attempt_at_their_worker(&app, &task)?;
    match update.status {
        Status::Running => {
            started(&app, &task, attempt, &node, update.container_id.unwrap_or_default()).await?;
        }
        Status::Complete => ended(&app, attempt, node, exited(0)).await?,
        Status::Failed if task.running_since().is_some() => {
            ended(&app, attempt, node, exited(1)).await?;
        }
        Status::Failed if app.offers.may_have_started(&task, attempt) => {
            started(&app, &task, attempt, &node, String::new()).await?;
            let words = format!(
                "{node} could not start it, perhaps because it had done so and the manager did not hear of it: its container \
                 rust-orch-{} may run there",
                attempt.task
            );
            let observation = Observation { attempt, kind: ObservationKind::Progress(words) };
            app.link.observe(&app.session(&node)?, vec![observation]).await?;
        }
        Status::Failed => {
            let message = format!("{node} could not start it and did not say why");
            let failure = StartFailure { reason: "legacy_worker".into(), message, retryable: true };
            ended(&app, attempt, node, AttemptEnd::StartFailed { failure: failure.into() }).await?;
        }
        Status::Pending | Status::Scheduled => {
            let detail = "a worker may say Running, Complete or Failed";
            return Err(Problem::new(kinds::MALFORMED, detail).at("status"));
        }
    }
    Ok(StatusCode::OK)
}

fn known(app: &Manager, id: TaskId) -> Result<TaskView> {
    app.orchestrator.get(id).ok_or_else(|| orch_core::Error::from(Unknown::Task(id)).into())
}

/// The update names no attempt and no worker. It can only be about the newest attempt.
fn attempt_at_their_worker(app: &Manager, task: &TaskView) -> Result<(AttemptId, NodeId)> {
    let last = task.record.attempts.last();
    match last.filter(|last| app.config.workers.contains(&last.node)) {
        Some(last) => Ok((AttemptId { task: task.record.id, attempt: last.number }, last.node.clone())),
        None => Err(Problem::new(kinds::STALE_ATTEMPT, "the task is not at a legacy worker")),
    }
}

/// Notes that the attempt runs. The observation is in the store before this returns, so that a server that is
/// started again never lists the task as `Scheduled`.
async fn started(
    app: &Manager,
    task: &TaskView,
    attempt: AttemptId,
    node: &NodeId,
    handle: String,
) -> Result<()> {
    let at = task.running_since().unwrap_or_else(Timestamp::now);
    let session = app.session(node)?;
    if task.record.spec.timeouts.run.is_some() {
        let report = Report { attempt, node: node.clone(), kind: ReportKind::Started { at } };
        app.link.report(&session, vec![report]).await?;
    }
    let kind = ObservationKind::Running { handle, at };
    app.link.observe(&session, vec![Observation { attempt, kind }]).await?;
    match known(app, attempt.task)?.running_since() {
        Some(_) => Ok(()),
        None => Err(stale(attempt)),
    }
}

async fn ended(app: &Manager, attempt: AttemptId, node: NodeId, end: AttemptEnd) -> Result<()> {
    let report = Report { attempt, node: node.clone(), kind: ReportKind::Ended(end) };
    match app.link.report(&app.session(&node)?, vec![report]).await?.answers.first() {
        Some(ReportAnswer::Accepted) => Ok(()),
        _ => Err(stale(attempt)),
    }
}

fn exited(code: i32) -> AttemptEnd {
    AttemptEnd::Exited { exit: Exit::from_code(code) }
}

fn stale(attempt: AttemptId) -> Problem {
    Problem::new(kinds::STALE_ATTEMPT, format!("attempt {attempt} is over already"))
}
