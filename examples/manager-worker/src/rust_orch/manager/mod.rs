//! The manager's side, for the CLI and workers of rust-orch as they are in use today: three routes at the
//! root, one JSON request a connection. The facts that its clients rely on are pinned by
//! `tests/rust_orch/manager.rs`.

mod handlers;
mod offers;
mod places;
mod task;
mod worker;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{get, put},
};
use orch_core::{
    Orchestrator,
    engine::{ControlLink, LinkError},
    model::{NodeId, Session, TaskSpec},
};
use orch_net::http::{
    Advice, Mount,
    shell::{Access, Problem, Shell, guard, kinds},
};

use self::offers::Offers;

/// Workers of rust-orch that a server has tasks for. Requests of its clients and workers carry no token: on
/// loopback they need none (but are refused from web pages), elsewhere the admin token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
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

impl Config {
    /// Serves these workers.
    #[must_use]
    pub fn with_workers(workers: impl IntoIterator<Item = NodeId>) -> Self {
        Self { workers: workers.into_iter().collect(), ..Self::default() }
    }
}

/// Routes and workers of rust-orch, to be mounted in a server.
pub fn routes(config: Config) -> impl FnOnce(&Shell, &Orchestrator) -> Mount {
    move |shell, orchestrator| {
        let app: App = Arc::new(Manager {
            shell: shell.clone(),
            orchestrator: orchestrator.clone(),
            link: orchestrator.link(),
            config,
            offers: Offers::default(),
        });
        // Everything else at these paths is 404, as with them.
        let unknown = async || Problem::new(kinds::UNKNOWN_ROUTE, "see GET /openapi.json for what there is");
        let router = Router::new()
            .route("/tasks", get(handlers::list).post(handlers::submit).fallback(unknown))
            .route("/tasks/{id}/status", put(handlers::set_status).fallback(unknown))
            .route_layer(from_fn_with_state((shell.clone(), Access::LocalOrAdmin), guard));
        let workers = app.config.workers.clone();
        let mount = Mount::new(router.with_state(app.clone())).advice(app.clone());
        workers.into_iter().fold(mount, |mount, node| mount.background(worker::keep(app.clone(), node)))
    }
}

type App = Arc<Manager>;

/// State of the routes.
#[derive(Debug)]
struct Manager {
    shell: Shell,
    orchestrator: Orchestrator,
    link: Arc<dyn ControlLink>,
    config: Config,
    offers: Offers,
}

impl Manager {
    /// Session of a worker. It has none of its own: this server speaks for it.
    fn session(&self, node: &NodeId) -> Result<Session, LinkError> {
        let known = self.orchestrator.node(node).ok_or(LinkError::NotRegistered)?;
        Ok(known.record.current_session())
    }
}

impl Advice for Manager {
    fn on(&self, spec: &TaskSpec) -> Option<String> {
        places::why_full(self, spec)
    }
}
