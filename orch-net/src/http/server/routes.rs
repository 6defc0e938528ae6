//! The table of all routes. The router and the API's description are made from the same entries, so that
//! neither can have what the other lacks.

use std::panic::AssertUnwindSafe;

use axum::{
    Router,
    extract::{Request, State},
    handler::Handler,
    middleware::{self, Next},
    response::Response,
    routing::{MethodFilter, on},
};
use futures_util::FutureExt as _;

use super::{
    agent,
    app::App,
    auth::Role,
    events, legacy, logs, metrics, nodes, openapi,
    problem::{Problem, kinds},
    tasks,
};

/// One operation of the API.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) method: Verb,
    pub(super) path: &'static str,
    pub(super) access: Access,
    pub(super) pace: Pace,
    pub(super) summary: &'static str,
    /// Parameters in the query with what they mean.
    pub(super) query: &'static [(&'static str, &'static str)],
    /// Name of the request body's schema.
    pub(super) body: Option<&'static str>,
    /// Status of the answer when all went well, its media type and the name of its schema.
    pub(super) answer: (u16, &'static str, &'static str),
}

/// The methods that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
    Delete,
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Anyone,
    /// The admin token, or nothing on loopback; the handler checks.
    LocalOrAdmin,
    Token(Role),
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// As long as [`Limits::request_timeout`](super::Limits::request_timeout).
    Prompt,
    /// It bounds itself, or goes on for ever.
    Long,
}

const JSON: &str = "application/json";
const NOTHING: (u16, &str, &str) = (204, "", "");

impl Operation {
    const fn new(method: Verb, path: &'static str, access: Access, summary: &'static str) -> Self {
        let answer = (200, JSON, "Anything");
        Self { method, path, access, pace: Pace::Prompt, summary, query: &[], body: None, answer }
    }

    const fn get(path: &'static str, summary: &'static str) -> Self {
        Self::new(Verb::Get, path, Access::Token(Role::Admin), summary)
    }

    const fn post(path: &'static str, summary: &'static str) -> Self {
        Self::new(Verb::Post, path, Access::Token(Role::Admin), summary)
    }

    const fn worker(self) -> Self {
        Self { access: Access::Token(Role::Worker), ..self }
    }

    const fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    const fn long(self) -> Self {
        Self { pace: Pace::Long, ..self }
    }

    const fn query(self, query: &'static [(&'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }

    const fn body(self, schema: &'static str) -> Self {
        Self { body: Some(schema), ..self }
    }

    const fn gives(self, schema: &'static str) -> Self {
        Self { answer: (200, JSON, schema), ..self }
    }

    const fn answer(self, status: u16, media: &'static str, schema: &'static str) -> Self {
        Self { answer: (status, media, schema), ..self }
    }
}

/// Everything that the server answers.
pub(super) fn router(app: App) -> Router {
    let router = table(&app).router.merge(legacy::router(&app));
    router
        .fallback(async || Problem::new(kinds::UNKNOWN_ROUTE, "see GET /openapi.json for what there is"))
        .method_not_allowed_fallback(async || {
            Problem::new(kinds::METHOD_NOT_ALLOWED, "see the header Allow for the methods there are")
        })
        .layer(middleware::from_fn(answer_panics))
        .layer(middleware::from_fn_with_state(app.clone(), metrics::count))
        .with_state(app)
}

/// All operations.
pub(super) fn operations(app: &App) -> Vec<Operation> {
    table(app).operations
}

struct Routes {
    app: App,
    router: Router<App>,
    operations: Vec<Operation>,
}

impl Routes {
    fn add<H, T>(mut self, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        let verb = match operation.method {
            Verb::Get => MethodFilter::GET,
            Verb::Post => MethodFilter::POST,
            Verb::Delete => MethodFilter::DELETE,
        };
        let mut route = on(verb, handler);
        if operation.pace == Pace::Prompt {
            route = route.route_layer(middleware::from_fn_with_state(self.app.clone(), bounded));
        }
        if let Access::Token(role) = operation.access {
            let app = self.app.clone();
            route = route.route_layer(middleware::from_fn(move |request: Request, next: Next| {
                let allowed = app.tokens.check(request.headers(), role);
                async move {
                    match allowed {
                        Ok(()) => Ok(next.run(request).await),
                        Err(problem) => Err(problem),
                    }
                }
            }));
        }
        self.router = self.router.route(operation.path, route);
        self.operations.push(operation);
        self
    }
}

/// Ends requests whose answer takes too long. What they asked for may happen all the same.
pub(super) async fn bounded(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let limit = app.limits.request_timeout;
    tokio::time::timeout(limit, next.run(request)).await.map_err(|_| {
        let detail =
            format!("no answer after {} ms; what was asked for may happen all the same", limit.as_millis());
        Problem::new(kinds::TIMED_OUT, detail)
    })
}

/// Answers requests that panic, where the connection would be cut without a word. What the panic said is for
/// the log only.
async fn answer_panics(request: Request, next: Next) -> Result<Response, Problem> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    AssertUnwindSafe(next.run(request)).catch_unwind().await.map_err(|panic| {
        let words = panic.downcast_ref::<&str>().copied();
        let words =
            words.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        tracing::error!(%method, path, panic = words, "a request panicked");
        let detail = "the server's log says more; what was asked for may have happened all the same";
        Problem::new(kinds::INTERNAL, detail)
    })
}

async fn healthy() -> &'static str {
    "ok\n"
}

/// Ready when everything that was decided before is visible here, and the server is not shutting down.
async fn ready(State(app): State<App>) -> Result<&'static str, Problem> {
    tokio::select! {
        biased;
        () = app.closed() => Err(Problem::new(kinds::SHUTTING_DOWN, "the server is shutting down")),
        caught_up = app.orchestrator.read_barrier() => caught_up.map(|_| "ok\n").map_err(Problem::from),
    }
}

fn table(app: &App) -> Routes {
    use Operation as Op;
    let text = |op: Op| op.answer(200, "text/plain", "Text");
    Routes { app: app.clone(), router: Router::new(), operations: Vec::new() }
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
