//! Forwarding the output of an attempt.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::StreamExt as _;
use tracing::debug;

use super::{AttemptContext, retry::RETRY_MAX};
use crate::{
    engine::link::ObservationKind,
    model::AttemptId,
    runtime::{OutputStream, RuntimeError, RuntimeErrorKind},
};

/// Sends all output and returns when it is delivered. Reading again after the engine was gone repeats
/// nothing.
pub(super) async fn forward(context: Arc<AttemptContext>, attempt: AttemptId) {
    let mut next: BTreeMap<OutputStream, u64> = BTreeMap::new();
    let mut sent = false;
    loop {
        let result = async {
            let mut logs = context.runtime.logs(attempt, true).await?;
            while let Some(chunk) = logs.next().await {
                let chunk = chunk?;
                let known = next.entry(chunk.stream).or_default();
                let repeated = usize::try_from(known.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
                if repeated >= chunk.data.len() {
                    continue;
                }
                let (offset, data) = (chunk.offset.max(*known), chunk.data.slice(repeated..));
                *known = offset + data.len() as u64;
                sent = true;
                context
                    .outbox
                    .observe(attempt, ObservationKind::Output { stream: chunk.stream, offset, data })
                    .await;
            }
            Ok::<(), RuntimeError>(())
        };
        match result.await {
            Ok(()) => break,
            Err(error) if error.kind == RuntimeErrorKind::Unavailable => {
                tokio::time::sleep(RETRY_MAX / 4).await;
            }
            Err(error) => {
                debug!(%attempt, %error, "its output could not be read");
                break;
            }
        }
    }
    if sent {
        context.outbox.flush().await;
    }
}
