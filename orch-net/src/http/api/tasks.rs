//! Tasks: taking them in, looking at them, taking them back, waiting for them.

use std::time::Duration;

use axum::{
    Json as Answer,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use orch_core::{
    engine::TaskFilter,
    model::{CommandId, TaskId, TaskSpec},
    state::{TaskStatus, UnknownStatus},
};
use serde::{Deserialize, de::IgnoredAny};

use super::{app::App, embedded::PAGE_MAX, problems::kinds};
use crate::http::shell::{Id, JsonBody, OptionalJson, Params, Problem, parse, value};
use crate::http::wire::{Cancellation, Decided, Explained, Submission, Submitted, TaskInfo, TaskPage};

type Result<T> = std::result::Result<T, Problem>;

/// Names the command, so that a repeated one is carried out once.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

const WAIT_DEFAULT: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) async fn submit(
    State(app): State<App>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Answer<Submitted>)> {
    let command = idempotency_key(&headers)?;
    let submission = submission(&body)?;
    let tasks = app.embedded.take(command, submission.tasks).await?;
    Ok((StatusCode::CREATED, Answer(Submitted { tasks })))
}

/// Several tasks in a list, or one as it is.
fn submission(body: &[u8]) -> Result<Submission> {
    /// Fields that tell the forms apart.
    #[derive(Default, Deserialize)]
    struct Shape {
        tasks: Option<IgnoredAny>,
        name: Option<IgnoredAny>,
        workload: Option<IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(body).unwrap_or_default();
    let read = match shape.tasks.is_none() && (shape.name.is_some() || shape.workload.is_some()) {
        true => parse(body).map(|spec: TaskSpec| Submission { tasks: vec![spec.into()] }),
        false => parse(body),
    };
    read.map_err(|problem| match serde_json::from_slice::<IgnoredAny>(body) {
        Ok(_) => problem.with_hint(FORM),
        Err(_) => problem,
    })
}

/// Example of a submission, for who sent something else.
const FORM: &str = "a task looks like \
    {\"name\":\"hello\",\"workload\":{\"kind\":\"image\",\"image\":\"busybox\"},\"args\":[\"echo\",\"hello\"]}, several like \
    {\"tasks\":[{\"spec\":TASK},{\"spec\":TASK}]}";

pub(super) async fn list(State(app): State<App>, params: Params) -> Result<Answer<TaskPage>> {
    let mut filter = TaskFilter { limit: PAGE_MAX, ..TaskFilter::default() };
    let (mut count, mut explain) = (false, false);
    params.each(|name, text| {
        match name {
            "status" => {
                for status in text.split(',') {
                    let status = status.parse::<TaskStatus>();
                    let bad =
                        |error: UnknownStatus| Problem::new(kinds::MALFORMED, error.to_string()).at("status");
                    filter.statuses.push(status.map_err(bad)?);
                }
            }
            "order" => {
                filter.newest_first = match text.as_str() {
                    "newest" => true,
                    "oldest" => false,
                    _ => {
                        let detail = "order must be newest or oldest";
                        return Err(Problem::new(kinds::MALFORMED, detail).at("order"));
                    }
                }
            }
            "count" => count = value(name, &text)?,
            "explain" => explain = value(name, &text)?,
            "namespace" => filter.namespace = Some(value(name, &text)?),
            "name" => filter.name = Some(text),
            "node" => filter.node = Some(value(name, &text)?),
            "label" => {
                let (key, wanted) = text.split_once('=').ok_or_else(|| {
                    Problem::new(kinds::MALFORMED, "label must be written label=KEY=VALUE").at("label")
                })?;
                filter.label = Some((key.to_owned(), wanted.to_owned()));
            }
            "id_prefix" => filter.id_prefix = Some(text.to_ascii_lowercase()),
            "after" => filter.after_seq = Some(value(name, &text)?),
            "limit" => filter.limit = value(name, &text)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    app.embedded.page(filter, count, explain).map(Answer)
}

pub(super) async fn get(State(app): State<App>, Id(task): Id<TaskId>) -> Result<Answer<TaskInfo>> {
    Ok(Answer(app.embedded.known(task)?.into()))
}

pub(super) async fn cancel(
    State(app): State<App>,
    Id(task): Id<TaskId>,
    OptionalJson(Cancellation { reason }): OptionalJson<Cancellation>,
) -> Result<Answer<Decided>> {
    let outcome = app.embedded.orchestrator().cancel(task, reason).await?;
    Ok(Answer(Decided { outcome }))
}

/// 200 when the task has finished, 202 when the time is over.
pub(super) async fn wait(
    State(app): State<App>,
    Id(task): Id<TaskId>,
    params: Params,
) -> Result<(StatusCode, Answer<TaskInfo>)> {
    let mut timeout = WAIT_DEFAULT;
    params.each(|name, text| match name {
        "timeout_ms" => {
            timeout = Duration::from_millis(value(name, &text)?).min(WAIT_MAX);
            Ok(true)
        }
        _ => Ok(false),
    })?;
    tokio::select! {
        biased;
        finished = app.embedded.orchestrator().wait(task) => Ok((StatusCode::OK, Answer(finished?.into()))),
        () = tokio::time::sleep(timeout) => Ok((StatusCode::ACCEPTED, Answer(app.embedded.known(task)?.into()))),
        () = app.closed() => Ok((StatusCode::ACCEPTED, Answer(app.embedded.known(task)?.into()))),
    }
}

pub(super) async fn explain(State(app): State<App>, Id(task): Id<TaskId>) -> Result<Answer<Explained>> {
    let status = app.embedded.known(task)?.status();
    Ok(Answer(Explained { status, explanation: app.embedded.explanation(task)? }))
}

fn idempotency_key(headers: &HeaderMap) -> Result<CommandId> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(CommandId::generate()) };
    let text = String::from_utf8_lossy(key.as_bytes());
    text.trim().parse().map_err(|error: orch_core::model::IdError| {
        Problem::new(kinds::MALFORMED, error.to_string()).at(IDEMPOTENCY_KEY)
    })
}
