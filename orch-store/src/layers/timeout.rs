//! A limit for each call.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use orch_core::store::StateStore;

use super::{Call, Failure, Layer, Layered};

/// A store that answers within `limit`, if only that it did not. Such a failure may be tried again; of a
/// commit the outcome is unknown then. A watch has the limit for its start; once it runs it may be silent for
/// as long as nothing happens.
#[must_use]
pub fn timeout(store: Arc<dyn StateStore>, limit: Duration) -> Arc<dyn StateStore> {
    Layered::over(store, Timeout(limit))
}

#[derive(Debug)]
struct Timeout(Duration);

#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}; see whether the store is reachable and not overloaded, or allow more time")]
struct NoAnswer(Duration);

#[async_trait]
impl Layer for Timeout {
    async fn around<'a, T: Send + 'a, E: Failure>(
        &'a self,
        call: Call<'a>,
        run: impl Fn() -> BoxFuture<'a, Result<T, E>> + Send + Sync + 'a,
    ) -> Result<T, E> {
        match tokio::time::timeout(self.0, run()).await {
            Ok(answer) => answer,
            Err(_) => Err(call.failed(true, true, NoAnswer(self.0)).into()),
        }
    }
}
