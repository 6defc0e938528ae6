//! [`RuntimeLayer`].

use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::Layered;
use crate::{
    model::{AttemptId, Exit},
    runtime::{
        Found, Logs, Progress, Runtime, RuntimeCapabilities, RuntimeError, RuntimeEvents, Started, Usage,
        Work,
    },
    testkit::SimulatedRuntime,
};

/// Change of the simulated runtime for a test: every step that a layer does not override is forwarded.
#[async_trait]
pub trait RuntimeLayer: fmt::Debug + Send + Sync + 'static {
    /// Runtime below this layer.
    fn below(&self) -> &SimulatedRuntime;

    /// As [`Runtime::capabilities`].
    fn capabilities(&self) -> RuntimeCapabilities {
        self.below().capabilities()
    }

    /// As [`Runtime::prepare`].
    ///
    /// # Errors
    /// As there.
    async fn prepare(&self, work: &Work, progress: &Progress) -> Result<(), RuntimeError> {
        self.below().prepare(work, progress).await
    }

    /// As [`Runtime::start`].
    ///
    /// # Errors
    /// As there.
    async fn start(&self, work: &Work) -> Result<Started, RuntimeError> {
        self.below().start(work).await
    }

    /// As [`Runtime::wait`].
    ///
    /// # Errors
    /// As there.
    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError> {
        self.below().wait(attempt).await
    }

    /// As [`Runtime::stop`].
    ///
    /// # Errors
    /// As there.
    async fn stop(&self, attempt: AttemptId, grace: Duration) -> Result<(), RuntimeError> {
        self.below().stop(attempt, grace).await
    }

    /// As [`Runtime::list`].
    ///
    /// # Errors
    /// As there.
    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        self.below().list().await
    }
}

#[async_trait]
impl<L: RuntimeLayer> Runtime for Layered<L> {
    fn capabilities(&self) -> RuntimeCapabilities {
        self.0.capabilities()
    }

    async fn prepare(&self, work: &Work, progress: &Progress) -> Result<(), RuntimeError> {
        self.0.prepare(work, progress).await
    }

    async fn start(&self, work: &Work) -> Result<Started, RuntimeError> {
        self.0.start(work).await
    }

    async fn adopt(&self, attempt: AttemptId) -> Result<Started, RuntimeError> {
        self.0.below().adopt(attempt).await
    }

    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError> {
        self.0.wait(attempt).await
    }

    async fn stop(&self, attempt: AttemptId, grace: Duration) -> Result<(), RuntimeError> {
        self.0.stop(attempt, grace).await
    }

    async fn kill(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        self.0.below().kill(attempt).await
    }

    async fn remove(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        self.0.below().remove(attempt).await
    }

    async fn logs(&self, attempt: AttemptId, follow: bool) -> Result<Logs, RuntimeError> {
        self.0.below().logs(attempt, follow).await
    }

    async fn stats(&self, attempt: AttemptId) -> Result<Usage, RuntimeError> {
        self.0.below().stats(attempt).await
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        self.0.list().await
    }

    async fn events(&self) -> Result<RuntimeEvents, RuntimeError> {
        self.0.below().events().await
    }
}
