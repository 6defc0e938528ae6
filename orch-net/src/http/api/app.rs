//! State of the engine's routes.

use std::sync::Arc;

use axum::extract::FromRef;
use orch_core::{Orchestrator, engine::ControlLink, model::TaskSpec};

use super::embedded::Embedded;
use crate::http::shell::Shell;

pub(super) type App = Arc<Shared>;

#[derive(Debug)]
pub(in crate::http) struct Shared {
    pub(super) shell: Shell,
    pub(super) embedded: Embedded,
    pub(super) link: Arc<dyn ControlLink>,
    /// Incarnation of the server; positions of events of another one mean something else.
    pub(super) epoch: u64,
}

/// Advice of a style on tasks that wait, beside the reasons that the engine gives.
pub trait Advice: std::fmt::Debug + Send + Sync + 'static {
    /// A sentence for people on why a task with this spec may wait, if there is more to say.
    fn on(&self, spec: &TaskSpec) -> Option<String>;
}

impl Shared {
    pub(in crate::http) fn new(
        shell: Shell,
        orchestrator: Orchestrator,
        advice: Vec<Arc<dyn Advice>>,
    ) -> Self {
        let epoch = uuid::Uuid::new_v4().as_u64_pair().0;
        Self { link: orchestrator.link(), shell, embedded: Embedded::advised(orchestrator, advice), epoch }
    }

    /// Resolves when streams and long polls should end.
    pub(super) async fn closed(&self) {
        self.shell.closed().await;
    }
}

impl FromRef<App> for Shell {
    fn from_ref(app: &App) -> Self {
        app.shell.clone()
    }
}
