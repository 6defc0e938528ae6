//! The table of the engine's routes.

use axum::extract::State;

use super::{agent, app::App, events, logs, metrics, nodes, openapi, problems::kinds, tasks};
use crate::http::shell::{Access, JSON, NOTHING, Operation, Problem, Routes, Shell, Verb};

async fn healthy() -> &'static str {
    "ok\n"
}

/// Ready when everything that was decided before is visible here, and the server is not shutting down.
async fn ready(State(app): State<App>) -> Result<&'static str, Problem> {
    tokio::select! {
        biased;
        () = app.closed() => Err(Problem::new(kinds::SHUTTING_DOWN, "the server is shutting down")),
        caught_up = app.embedded.orchestrator().read_barrier() => caught_up.map(|_| "ok\n").map_err(Problem::from),
    }
}

/// All operations of the engine's API.
pub(super) fn table(shell: &Shell) -> Routes<App> {
    use Operation as Op;
    let text = |op: Op| op.answer(200, "text/plain", "Text");
    Routes::new(shell)
        .add(text(Op::get("/healthz", "Whether the server runs")).access(Access::Anyone), healthy)
        .add(text(Op::get("/readyz", "Whether the server can answer")).access(Access::Anyone), ready)
        .add(
            text(Op::get("/metrics", "Numbers for Prometheus; open on loopback"))
                .access(Access::LocalOrAdmin),
            metrics::show,
        )
        .add(Op::get("/openapi.json", "This description").access(Access::Anyone), openapi::show)
        .add(
            Op::post(
                "/api/v1/tasks",
                "Takes a task in, or several, all or none; repeat with the same Idempotency-Key",
            )
            .body("Submission")
            .answer(201, JSON, "Submitted"),
            tasks::submit,
        )
        .add(
            Op::get("/api/v1/tasks", "Tasks in order of submission, or the other way round")
                .gives("TaskPage")
                .query(&[
                    ("status", "one or more statuses, separated by commas or repeated"),
                    ("namespace", "only those of this namespace"),
                    ("name", "only those with exactly this name"),
                    ("node", "only those on this node now"),
                    ("label", "KEY=VALUE: only those with this label"),
                    ("id_prefix", "only those whose id starts so"),
                    ("order", "oldest (the default) or newest: which come first"),
                    ("count", "true: also how many there are on all pages"),
                    ("explain", "true: also why pending ones wait, for the first hundred of the page"),
                    ("after", "`next` of the page before"),
                    ("limit", "at most so many, from 1 to 1000; a page ends before that at 4 MiB"),
                ]),
            tasks::list,
        )
        .add(Op::get("/api/v1/tasks/{id}", "A task").gives("TaskInfo"), tasks::get)
        .add(
            Op::post("/api/v1/tasks/{id}/cancel", "Takes a task back").body("Cancellation").gives("Decided"),
            tasks::cancel,
        )
        .add(
            Op::get("/api/v1/tasks/{id}/wait", "Waits for the task's end; 202 when the time is over")
                .gives("TaskInfo")
                .long()
                .query(&[("timeout_ms", "how long to wait, at most 60000")]),
            tasks::wait,
        )
        .add(
            Op::get("/api/v1/tasks/{id}/explain", "Why a task is pending").gives("Explained"),
            tasks::explain,
        )
        .add(
            Op::get("/api/v1/tasks/{id}/logs", "A task's output")
                .answer(200, "text/plain", "Text")
                .long()
                .query(&[
                    ("follow", "true: until the task has finished"),
                    ("attempt", "only what this attempt wrote"),
                    ("tail", "only so many of the last lines, from 0 to 100000, within the last 16 MiB"),
                    ("since", "only what was taken in at this time or later, in milliseconds since 1970"),
                    ("timestamps", "true: with format=json pieces say when they were taken in"),
                    ("format", "text: the bytes; json: a line of JSON for each piece"),
                ]),
            logs::read,
        )
        .add(Op::get("/api/v1/nodes", "All nodes").gives("NodeList"), nodes::list)
        .add(Op::get("/api/v1/nodes/{id}", "A node").gives("NodeInfo"), nodes::get)
        .add(
            Op {
                method: Verb::Delete,
                ..Op::get("/api/v1/nodes/{id}", "Forgets a node that is lost or empty")
            }
            .gives("Decided"),
            nodes::remove,
        )
        .add(
            Op::post("/api/v1/nodes/{id}/cordon", "Lets a node take nothing new").gives("Decided"),
            nodes::cordon,
        )
        .add(
            Op::post("/api/v1/nodes/{id}/uncordon", "Lets a node take work again").gives("Decided"),
            nodes::uncordon,
        )
        .add(
            Op::post("/api/v1/nodes/{id}/drain", "Empties a node").body("Drain").gives("Decided"),
            nodes::drain,
        )
        .add(Op::get("/api/v1/status", "How the cluster is doing").gives("StatusInfo"), nodes::status)
        .add(
            Op::get("/api/v1/events", "What happens, as server-sent events; resumes from Last-Event-ID")
                .answer(200, "text/event-stream", "Text")
                .long()
                .query(&[("from", "a revision, or the id of an event: go on after it")]),
            events::follow,
        )
        .add(
            Op::post("/api/v1/agent/{id}/register", "A worker joins, or comes back")
                .worker()
                .body("Registration")
                .gives("Registered"),
            agent::register,
        )
        .add(
            Op { answer: NOTHING, ..Op::post("/api/v1/agent/{id}/heartbeat", "A worker is there") }
                .worker()
                .body("Heartbeat"),
            agent::heartbeat,
        )
        .add(
            Op::post("/api/v1/agent/{id}/assignments", "What a worker should do, as soon as that changes")
                .worker()
                .body("Question")
                .gives("Assignments")
                .long(),
            agent::assignments,
        )
        .add(
            Op::post("/api/v1/agent/{id}/reports", "What happened to attempts")
                .worker()
                .body("Reports")
                .gives("Reported"),
            agent::report,
        )
        .add(
            Op { answer: NOTHING, ..Op::post("/api/v1/agent/{id}/observations", "What a worker saw") }
                .worker()
                .body("Observations"),
            agent::observe,
        )
}
