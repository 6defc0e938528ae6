//! The manager's side of rust-orch, for its CLI and workers as they are in use today: three routes at the
//! root, one JSON request a connection. The facts that its clients rely on are pinned by
//! `tests/http/legacy.rs`.

mod offers;
mod places;
mod routes;
mod task;
mod worker;

use std::{num::NonZeroU32, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
    routing::{get, put},
};
use orch_core::model::NodeId;
use tokio::task::JoinSet;

use super::{
    app::App,
    guard,
    problem::{Problem, kinds},
};

/// Whether the clients and workers of rust-orch are served. Their requests carry no token: on loopback they
/// need none (but are refused from web pages), elsewhere the admin token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyConfig {
    /// Serves the routes.
    pub enabled: bool,
    /// Workers that never register, by name; theirs is called `worker-1`. The server registers each of them
    /// as a node for images that is always there. Such a worker cannot be told to stop: a cancelled task
    /// counts as stopped at once, whatever its container does.
    pub workers: Vec<NodeId>,
    /// Most tasks of each of them at a time; 1024 where it is not said.
    pub max_tasks: Option<NonZeroU32>,
    /// Such a worker never tells of ends. A task that runs there for longer than this counts as succeeded,
    /// whatever its container does, so that its place is free.
    pub done_after: Option<Duration>,
    /// Of the tasks that run at one of them, the oldest beyond this number count as succeeded in the same
    /// way.
    pub running_max: Option<u32>,
}

impl LegacyConfig {
    /// Serves these workers.
    #[must_use]
    pub fn with_workers(workers: impl IntoIterator<Item = NodeId>) -> Self {
        Self { enabled: true, workers: workers.into_iter().collect(), ..Self::default() }
    }
}

pub(super) use self::{offers::Offers, places::why_full};

/// Their routes; everything else at these paths is 404, as with them.
pub(super) fn router(app: &App) -> Router<App> {
    if !app.legacy.enabled {
        return Router::new();
    }
    let unknown = async || Problem::new(kinds::UNKNOWN_ROUTE, "see GET /openapi.json for what there is");
    Router::new()
        .route("/tasks", get(routes::list).post(routes::submit).fallback(unknown))
        .route("/tasks/{id}/status", put(routes::set_status).fallback(unknown))
        .route_layer(middleware::from_fn_with_state(app.clone(), guarded))
}

/// Keeps the configured workers in the cluster until the answer is dropped.
pub(super) fn keep_workers(app: &App) -> JoinSet<()> {
    let mut kept = JoinSet::new();
    if app.legacy.enabled {
        for node in &app.legacy.workers {
            kept.spawn(worker::keep(app.clone(), node.clone()));
        }
    }
    kept
}

async fn guarded(State(app): State<App>, request: Request, next: Next) -> Result<Response, Problem> {
    guard::local_or_admin(&app, request.headers())?;
    super::routes::bounded(State(app), request, next).await
}
