//! Events of a runtime, for as long as somebody listens.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::attempt::AttemptContext;
use crate::runtime::{RuntimeError, RuntimeEvent, RuntimeEvents};

const PAUSE: Duration = Duration::from_secs(1);

/// The runtime's events, asked for again whenever they end. The task ends with the receiver.
pub(super) fn watch_runtime(context: Arc<AttemptContext>) -> mpsc::Receiver<RuntimeEvent> {
    let (found, events) = mpsc::channel(256);
    let environment = context.environment.clone();
    let watching = async move {
        loop {
            let stream: Result<RuntimeEvents, RuntimeError> = tokio::select! {
                stream = context.runtime.events() => stream,
                () = found.closed() => return,
            };
            context.health.note(&stream);
            if let Ok(mut stream) = stream {
                loop {
                    let next = tokio::select! {
                        next = stream.next() => next,
                        () = found.closed() => return,
                    };
                    let Some(Ok(event)) = next else { break };
                    if found.send(event).await.is_err() {
                        return;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = found.closed() => return,
            }
        }
    };
    environment.spawn(Box::pin(watching));
    events
}
