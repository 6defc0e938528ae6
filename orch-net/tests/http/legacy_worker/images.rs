//! The simulated runtime with images for programs.

use std::time::Duration;

use async_trait::async_trait;
use orch_core::{
    model::{AttemptId, Exit, PullPolicy, WorkKind, Workload},
    runtime::{
        Found, Logs, Progress, Runtime, RuntimeCapabilities, RuntimeError, RuntimeEvents, Started, Usage,
        Work,
    },
    testkit::SimulatedRuntime,
};

/// Runs the image `hang` as the simulated runtime runs the program `hang`, and so on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Images(pub(crate) SimulatedRuntime);

#[async_trait]
impl Runtime for Images {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities { kind: WorkKind::Image, ..self.0.capabilities() }
    }

    async fn start(&self, work: &Work) -> Result<Started, RuntimeError> {
        let Workload::Image { image, pull: PullPolicy::IfMissing, .. } = &work.spec.workload else {
            panic!("not an image that is fetched when missing: {work:?}")
        };
        let mut spec = (*work.spec).clone();
        spec.workload = Workload::Program { program: image.clone() };
        self.0.start(&Work { spec: spec.into(), ..work.clone() }).await
    }

    async fn adopt(&self, attempt: AttemptId) -> Result<Started, RuntimeError> {
        self.0.adopt(attempt).await
    }

    async fn prepare(&self, work: &Work, progress: &Progress) -> Result<(), RuntimeError> {
        self.0.prepare(work, progress).await
    }

    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError> {
        self.0.wait(attempt).await
    }

    async fn stop(&self, attempt: AttemptId, grace: Duration) -> Result<(), RuntimeError> {
        self.0.stop(attempt, grace).await
    }

    async fn kill(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        self.0.kill(attempt).await
    }

    async fn remove(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        self.0.remove(attempt).await
    }

    async fn logs(&self, attempt: AttemptId, follow: bool) -> Result<Logs, RuntimeError> {
        self.0.logs(attempt, follow).await
    }

    async fn stats(&self, attempt: AttemptId) -> Result<Usage, RuntimeError> {
        self.0.stats(attempt).await
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        self.0.list().await
    }

    async fn events(&self) -> Result<RuntimeEvents, RuntimeError> {
        self.0.events().await
    }
}
