//! The engine's events, as far as they concern our attempts.

use std::collections::HashMap;

use bollard::{models::EventMessage, query_parameters::EventsOptionsBuilder};
use futures_util::{StreamExt, stream};
use orch_core::runtime::{RuntimeError, RuntimeErrorKind, RuntimeEvent, RuntimeEvents};

use crate::{
    clock::EngineTime, container::Container, engine::Engine, errors::EngineError, identity::Identity,
};

/// The most of a health check's output that is passed on, in characters.
const HEALTH_OUTPUT_CHARS: usize = 1024;

/// Everything from now on, by the engine's own clock: the client subscribes with the first poll only, and what
/// happens in between must not be missed.
pub(crate) async fn subscribe(engine: &Engine, identity: &Identity) -> Result<RuntimeEvents, RuntimeError> {
    let operation = "watch the engine's events";
    let info = engine.ask(engine.docker.info()).await.map_err(|error| error.into_runtime(operation))?;
    let now =
        info.system_time.as_deref().and_then(EngineTime::parse).ok_or_else(|| {
            RuntimeError::new(RuntimeErrorKind::Internal, "the engine does not tell its time")
        })?;
    let mut filters = identity.filter();
    filters.insert("type".into(), vec!["container".into()]);
    filters.insert("event".into(), vec!["die".into(), "health_status".into()]);
    let options = EventsOptionsBuilder::default().since(&now.to_unix()).filters(&filters).build();

    let (engine, identity) = (engine.clone(), identity.clone());
    let gone = EngineError::Gone("it closed the connection".into());
    let ours = engine
        .watched(engine.docker.events(Some(options)))
        .chain(stream::iter([Err(gone)])) // it never ends by itself
        .filter_map(move |message| {
            let (engine, identity) = (engine.clone(), identity.clone());
            async move {
                match message {
                    Ok(message) => translate(&engine, &identity, message).await,
                    Err(error) => Some(Err(error.into_runtime(operation))),
                }
            }
        });
    Ok(until_first_error(ours.boxed()))
}

async fn translate(
    engine: &Engine,
    identity: &Identity,
    message: EventMessage,
) -> Option<Result<RuntimeEvent, RuntimeError>> {
    let attributes: HashMap<String, String> = message.actor?.attributes?;
    let attempt = identity.attempt(&attributes)?;
    match message.action?.as_str() {
        "die" => Some(Ok(RuntimeEvent::Ended { attempt })),
        action => {
            let healthy = match action.strip_prefix("health_status: ")? {
                "healthy" => true,
                "unhealthy" => false,
                _ => return None,
            };
            let container = match Container::find(engine, identity, attempt).await {
                Ok(container) => container?,
                Err(error) => return Some(Err(error)),
            };
            let output = clip(&container.health_output);
            Some(Ok(RuntimeEvent::Health { attempt, healthy, output }))
        }
    }
}

fn until_first_error(events: RuntimeEvents) -> RuntimeEvents {
    stream::unfold(Some(events), |events| async {
        let mut events = events?;
        let event = events.next().await?;
        let next = event.is_ok().then_some(events);
        Some((event, next))
    })
    .boxed()
}

fn clip(text: &str) -> String {
    text.chars().take(HEALTH_OUTPUT_CHARS).collect()
}
