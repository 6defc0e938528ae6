//! Tasks: taking them in, looking at them, taking them back, waiting for them.

use std::{io, time::Duration};

use axum::{
    Json as Answer,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use orch_core::{
    engine::{TaskFilter, TaskView, Unknown},
    model::{CommandId, TaskId, TaskSpec},
    state,
    state::{TaskStatus, UnknownStatus},
};
use serde::{Deserialize, de::IgnoredAny};
use sha2::{Digest, Sha256};

use super::{
    app::{App, Shared},
    problems::kinds,
};
use crate::http::shell::{Id, JsonBody, OptionalJson, Params, Problem, parse, value};
use crate::http::wire::{
    Cancellation, Decided, Explained, Explanation, Submission, Submitted, TaskInfo, TaskPage,
};

type Result<T> = std::result::Result<T, Problem>;

/// Names the command, so that a repeated one is carried out once.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Most tasks of one answer that are explained; explaining asks the scheduler about every node.
const EXPLAINED_MAX: usize = 100;
/// The most tasks of a page.
const PAGE_MAX: usize = 1000;
/// The most JSON of a page with several tasks.
const PAGE_BYTES_MAX: usize = 4 << 20;
const WAIT_DEFAULT: Duration = Duration::from_secs(30);
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) async fn submit(
    State(app): State<App>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Answer<Submitted>)> {
    let command = idempotency_key(&headers)?;
    let submission = submission(&body)?;
    let numbered = submission.tasks.into_iter().enumerate();
    let new: Vec<state::NewTask> = numbered
        .map(|(at, task)| state::NewTask {
            id: task.id.unwrap_or_else(|| derived_id(command, at)),
            spec: task.spec.into(),
        })
        .collect();
    let ids: Vec<TaskId> = new.iter().map(|task| task.id).collect();
    app.orchestrator.submit_as(command, new).await?;
    if ids.iter().any(|id| app.orchestrator.get(*id).is_none()) {
        // Decided elsewhere in the cluster, and not visible here yet.
        app.orchestrator.read_barrier().await?;
    }
    let mut tasks = Vec::with_capacity(ids.len());
    for (at, id) in ids.into_iter().enumerate() {
        let mut task = TaskInfo::from(known(&app, id)?);
        if at < EXPLAINED_MAX {
            task.explanation = explanation(&app, id)?;
        }
        tasks.push(task);
    }
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
            "limit" => {
                filter.limit = value(name, &text)?;
                if !(1..=PAGE_MAX).contains(&filter.limit) {
                    let detail = format!("limit must be from 1 to {PAGE_MAX}");
                    return Err(Problem::new(kinds::MALFORMED, detail).at("limit"));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    // One more than asked for tells whether there is another page.
    let wanted = filter.limit;
    filter.limit += 1;
    let mut tasks = app.orchestrator.list(&filter);
    let more = tasks.len() > wanted;
    tasks.truncate(wanted);
    let fit = how_many_fit(&tasks);
    let more = more || fit < tasks.len();
    tasks.truncate(fit);
    let next = tasks.last().filter(|_| more).map(|task| task.record.seq);
    let total = count.then(|| app.orchestrator.count(&filter));
    let mut tasks: Vec<TaskInfo> = tasks.into_iter().map(TaskInfo::from).collect();
    if explain {
        let pending = tasks.iter_mut().filter(|task| task.status == TaskStatus::Pending);
        for task in pending.take(EXPLAINED_MAX) {
            // A task that was forgotten meanwhile waits for nothing.
            task.explanation = explanation(&app, task.view.record.id).ok().flatten();
        }
    }
    Ok(Answer(TaskPage { tasks, next, total }))
}

/// Number of these tasks that a page has: so many that their JSON stays below [`PAGE_BYTES_MAX`], and one at
/// least.
fn how_many_fit(tasks: &[TaskView]) -> usize {
    let mut bytes = Length(0);
    let fit = tasks.iter().take_while(|task| {
        serde_json::to_writer(&mut bytes, task).expect("plain data has a JSON form");
        bytes.0 <= PAGE_BYTES_MAX
    });
    fit.count().max(1)
}

/// Counts what is written to it.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) async fn get(State(app): State<App>, Id(task): Id<TaskId>) -> Result<Answer<TaskInfo>> {
    Ok(Answer(known(&app, task)?.into()))
}

pub(super) async fn cancel(
    State(app): State<App>,
    Id(task): Id<TaskId>,
    OptionalJson(Cancellation { reason }): OptionalJson<Cancellation>,
) -> Result<Answer<Decided>> {
    let outcome = app.orchestrator.cancel(task, reason).await?;
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
        finished = app.orchestrator.wait(task) => Ok((StatusCode::OK, Answer(finished?.into()))),
        () = tokio::time::sleep(timeout) => Ok((StatusCode::ACCEPTED, Answer(known(&app, task)?.into()))),
        () = app.closed() => Ok((StatusCode::ACCEPTED, Answer(known(&app, task)?.into()))),
    }
}

pub(super) async fn explain(State(app): State<App>, Id(task): Id<TaskId>) -> Result<Answer<Explained>> {
    let status = known(&app, task)?.status();
    Ok(Answer(Explained { status, explanation: explanation(&app, task)? }))
}

fn known(app: &Shared, task: TaskId) -> Result<TaskView> {
    app.orchestrator.get(task).ok_or_else(|| orch_core::Error::from(Unknown::Task(task)).into())
}

fn explanation(app: &Shared, task: TaskId) -> Result<Option<Explanation>> {
    let Some(unplaced) = app.orchestrator.explain(task)? else { return Ok(None) };
    let mut explanation = Explanation::from(unplaced);
    let spec = app.orchestrator.get(task).map(|task| task.record.spec.clone());
    for why in spec.iter().flat_map(|spec| app.advice.iter().filter_map(|advice| advice.on(spec))) {
        explanation.text = format!("{}. {why}", explanation.text);
    }
    Ok(Some(explanation))
}

fn idempotency_key(headers: &HeaderMap) -> Result<CommandId> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(CommandId::generate()) };
    let text = String::from_utf8_lossy(key.as_bytes());
    text.trim().parse().map_err(|error: orch_core::model::IdError| {
        Problem::new(kinds::MALFORMED, error.to_string()).at(IDEMPOTENCY_KEY)
    })
}

/// The id of the task at place `at` of a submission that names none. Derived, so that the submission may be
/// repeated.
fn derived_id(command: CommandId, at: usize) -> TaskId {
    let mut hash = Sha256::new();
    hash.update(b"orch task id\0");
    hash.update(command.as_bytes());
    hash.update((at as u64).to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    TaskId::from_bytes(*uuid::Builder::from_custom_bytes(bytes).as_uuid().as_bytes())
}
