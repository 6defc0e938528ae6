//! Events of the engine that concern our attempts.

use std::collections::HashMap;

use bollard::{
    models::EventMessage,
    query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder},
};
use futures_util::{StreamExt, stream};
use orch_core::{
    model::AttemptId,
    runtime::{RuntimeError, RuntimeErrorKind, RuntimeEvent, RuntimeEvents},
};
use tokio::sync::watch;

use crate::{
    clock::EngineTime, container::Container, engine::Engine, errors::EngineError, identity::Identity,
};

/// Maximum length of a health check's output that is passed on, in characters.
const HEALTH_OUTPUT_CHARS: usize = 1024;

/// Subscribes to all events from now on, by the engine's own clock: the client subscribes with the first poll
/// only, and events in between must not be missed. The engine reports each change to unhealthy once; an agent
/// that adopts a container later would miss it. So containers that are unhealthy are reported at the
/// beginning, and whenever one was `adopted`.
pub(crate) async fn subscribe(
    engine: &Engine,
    identity: &Identity,
    mut adopted: watch::Receiver<()>,
) -> Result<RuntimeEvents, RuntimeError> {
    adopted.mark_changed();
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
    let (standing_engine, standing_identity) = (engine.clone(), identity.clone());
    let gone = EngineError::Gone("it closed the connection".into());
    let ours = engine
        .watched(engine.docker.events(Some(options)))
        .chain(stream::iter([Err(gone)])) // never ends by itself
        .filter_map(move |message| {
            let (engine, identity) = (engine.clone(), identity.clone());
            async move {
                match message {
                    Ok(message) => translate(&engine, &identity, message).await,
                    Err(error) => Some(Err(error.into_runtime(operation))),
                }
            }
        });
    let standing = stream::unfold(adopted, move |mut adopted| {
        let (engine, identity) = (standing_engine.clone(), standing_identity.clone());
        async move {
            adopted.changed().await.ok()?;
            Some((stream::iter(unhealthy(&engine, &identity).await), adopted))
        }
    });
    Ok(until_first_error(stream::select(standing.flatten(), ours).boxed()))
}

/// Health events of our containers that are unhealthy now.
async fn unhealthy(engine: &Engine, identity: &Identity) -> Vec<Result<RuntimeEvent, RuntimeError>> {
    let mut filters = identity.filter();
    filters.insert("health".into(), vec!["unhealthy".into()]);
    let options = ListContainersOptionsBuilder::default().filters(&filters).build();
    let summaries = match engine.ask(engine.docker.list_containers(Some(options))).await {
        Ok(summaries) => summaries,
        Err(error) => return vec![Err(error.into_runtime("list unhealthy containers"))],
    };
    let attempts = summaries.into_iter().filter_map(|one| identity.attempt(&one.labels?));
    stream::iter(attempts)
        .filter_map(|attempt| async move { verdict(engine, identity, attempt, false).await.transpose() })
        .collect()
        .await
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
            verdict(engine, identity, attempt, healthy).await.transpose()
        }
    }
}

/// Health event with the output of its check; `None` when the container was removed meanwhile.
async fn verdict(
    engine: &Engine,
    identity: &Identity,
    attempt: AttemptId,
    healthy: bool,
) -> Result<Option<RuntimeEvent>, RuntimeError> {
    let container = Container::find(engine, identity, attempt).await?;
    Ok(container.map(|container| {
        let output = clip(&container.health_output);
        RuntimeEvent::Health { attempt, healthy, output }
    }))
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
