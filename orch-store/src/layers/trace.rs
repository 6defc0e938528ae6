//! Tracing layer: a span or event for each call.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use orch_core::store::StateStore;
use tracing::{Instrument as _, debug, debug_span, warn};

use super::{Call, Failure, Layer, Layered};

/// A store whose calls are spans of `tracing` at the level `debug`, each with an event for its end: `debug`
/// for an answer (a lost race is one), `warn` for a failure. Keys are shown, values never.
#[must_use]
pub fn traced(store: Arc<dyn StateStore>) -> Arc<dyn StateStore> {
    Layered::over(store, Trace)
}

#[derive(Debug)]
struct Trace;

#[async_trait]
impl Layer for Trace {
    async fn around<'a, T: Send + 'a, E: Failure>(
        &'a self,
        call: Call<'a>,
        run: impl Fn() -> BoxFuture<'a, Result<T, E>> + Send + Sync + 'a,
    ) -> Result<T, E> {
        let span =
            debug_span!("store", store = call.store, operation = call.operation.as_str(), at = call.at);
        async move {
            let begin = Instant::now();
            let answer = run().await;
            let took = begin.elapsed();
            match answer.as_ref().err().map(|error| (error, error.of_store())) {
                None => debug!(?took, "answered"),
                Some((conflict, None)) => debug!(?took, %conflict, "answered"),
                Some((_, Some(error))) => {
                    let cause = std::error::Error::source(error).map(ToString::to_string);
                    warn!(?took, %error, cause, operation = call.operation.as_str(), "failed");
                }
            }
            answer
        }
        .instrument(span)
        .await
    }
}
