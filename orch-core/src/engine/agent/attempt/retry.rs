//! [`retry_while_unavailable`]: calls to a runtime whose engine may be away.

use std::time::Duration;

use orch_base::backoff::Backoff;
use tracing::warn;

use super::AttemptContext;
use crate::{
    engine::link::ObservationKind,
    model::AttemptId,
    runtime::{RuntimeError, RuntimeErrorKind},
};

pub(super) const RETRY_MAX: Duration = Duration::from_secs(2);

/// Calls again while the engine does not answer, and says so.
pub(super) async fn retry_while_unavailable<T, F>(
    context: &AttemptContext,
    attempt: AttemptId,
    mut call: impl FnMut() -> F,
) -> Result<T, RuntimeError>
where
    F: Future<Output = Result<T, RuntimeError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), RETRY_MAX);
    loop {
        let result = call().await;
        context.health.note(&result);
        match result {
            Err(error) if error.kind == RuntimeErrorKind::Unavailable => {
                let delay = backoff.next_delay();
                if delay < RETRY_MAX {
                    warn!(%attempt, %error, "the engine does not answer; trying again");
                    let text = format!("the engine does not answer, trying again: {error}");
                    context.outbox.try_observe(attempt, ObservationKind::Progress(text));
                }
                tokio::time::sleep(delay).await;
            }
            other => return other,
        }
    }
}
