//! Operations on one of our containers: lookup, waiting, signals and removal.

use std::{collections::HashMap, time::Duration};

use bollard::{
    errors::Error,
    models::{
        ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status,
        HealthStatusEnum as Verdict,
    },
    query_parameters::{
        InspectContainerOptions, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
        WaitContainerOptionsBuilder,
    },
};
use futures_util::StreamExt;
use orch_core::{
    model::{AttemptId, Exit, Timestamp},
    runtime::{Found, FoundState, RuntimeError},
};

use crate::{clock::EngineTime, engine::Engine, errors::EngineError, identity::Identity, started};

/// Label with the bound on retained output, for later incarnations of the agent.
pub(crate) const OUTPUT_LIMIT: &str = "orch.output-limit";

/// Exit code that an engine invents for a container that ran before the engine restarted, and of which it
/// finds no process now.
const MADE_UP_CODE: i32 = 255;

/// State of a container as the engine reports it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) attempt: AttemptId,
    pub(crate) id: String,
    pub(crate) state: FoundState,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) stop_signal: String,
    pub(crate) output_limit: u64,
    /// Output of the newest health check.
    pub(crate) health_output: String,
    /// Whether the health check has failed as often as the spec allows.
    pub(crate) is_unhealthy: bool,
}

/// Use of the container name of an attempt.
pub(crate) enum Lookup {
    /// Used by our container.
    Ours(Container),
    /// Free, or used by a container that is being removed.
    Free,
    /// Used by somebody else's container.
    Foreign,
}

impl Container {
    pub(crate) async fn look_up(
        engine: &Engine,
        identity: &Identity,
        name: &str,
    ) -> Result<Lookup, EngineError> {
        let answer = engine.ask(engine.docker.inspect_container(name, None::<InspectContainerOptions>)).await;
        match answer {
            Ok(answer) if is_going_away(&answer) => Ok(Lookup::Free),
            Ok(answer) => Ok(Self::read(identity, answer).map_or(Lookup::Foreign, Lookup::Ours)),
            Err(error) if error.is_missing_container() => Ok(Lookup::Free),
            Err(error) => Err(error),
        }
    }

    /// Our container of this attempt, with the error that the trait prescribes.
    pub(crate) async fn find(
        engine: &Engine,
        identity: &Identity,
        attempt: AttemptId,
    ) -> Result<Option<Self>, RuntimeError> {
        match Self::look_up(engine, identity, &identity.name(attempt)).await {
            Ok(Lookup::Ours(container)) => Ok(Some(container)),
            Ok(Lookup::Free | Lookup::Foreign) => Ok(None),
            Err(error) => Err(error.into_runtime(&format!("look for attempt {attempt}"))),
        }
    }

    fn read(identity: &Identity, answer: ContainerInspectResponse) -> Option<Self> {
        let config = answer.config.unwrap_or_default();
        let labels: HashMap<String, String> = config.labels.unwrap_or_default();
        let state = answer.state.unwrap_or_default();
        let told = state.started_at.as_deref().and_then(EngineTime::parse);
        let verdict = state.health.as_ref().and_then(|health| health.status);
        let id = answer.id?;
        let is_running = state.running == Some(true);
        // A container that runs or has run was started, even if its start time cannot be parsed.
        let was_started = is_running || state.status == Some(Status::EXITED);
        let started_at = told.map(EngineTime::timestamp).or_else(|| was_started.then(Timestamp::now));
        let started_at = started_at.map(|told| started::at(told, &id, state.pid));
        let newest = state.health.as_ref().and_then(|health| health.log.as_ref()?.last());
        Some(Self {
            attempt: identity.attempt(&labels)?,
            id,
            state: match exit(&state) {
                _ if started_at.is_none() => FoundState::Created,
                _ if is_running => FoundState::Running,
                exit if exit.code == MADE_UP_CODE && identity.is_of_another_boot(&labels) => FoundState::Lost,
                exit => FoundState::Ended(exit),
            },
            started_at,
            stop_signal: config.stop_signal.unwrap_or_else(|| "SIGTERM".into()),
            output_limit: labels.get(OUTPUT_LIMIT).and_then(|text| text.parse().ok()).unwrap_or(u64::MAX),
            health_output: newest.and_then(|result| result.output.clone()).unwrap_or_default(),
            is_unhealthy: verdict == Some(Verdict::UNHEALTHY),
        })
    }

    pub(crate) fn was_started(&self) -> bool {
        self.state != FoundState::Created
    }

    pub(crate) fn into_found(self) -> Found {
        Found { attempt: self.attempt, handle: self.id, state: self.state, started_at: self.started_at }
    }

    /// Returns when the container does not run any more.
    pub(crate) async fn ended(&self, engine: &Engine) -> Result<(), EngineError> {
        until(engine, &self.id, "not-running").await
    }

    /// Sends a signal. A signal to a container that has ended is a success.
    pub(crate) async fn signal(&self, engine: &Engine, signal: &str) -> Result<(), EngineError> {
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        match engine.order(engine.docker.kill_container(&self.id, Some(options))).await {
            Err(error) if !error.is_status(409) && !error.is_missing_container() => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends the stop signal, and kills the container when `grace` is over.
    pub(crate) async fn stop(&self, engine: &Engine, grace: Duration) -> Result<(), EngineError> {
        self.signal(engine, &self.stop_signal).await?;
        match tokio::time::timeout(grace, self.ended(engine)).await {
            Ok(ended) => ended,
            Err(_) => self.kill(engine).await,
        }
    }

    /// Kills the container with every process inside.
    pub(crate) async fn kill(&self, engine: &Engine) -> Result<(), EngineError> {
        self.signal(engine, "SIGKILL").await?;
        self.ended(engine).await
    }

    /// Removes the container with its anonymous volumes, running or not.
    pub(crate) async fn remove(&self, engine: &Engine) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match engine.order(engine.docker.remove_container(&self.id, Some(options))).await {
            Err(error) if error.is_missing_container() => Ok(()),
            // A removal is in progress; it is complete when the container no longer exists.
            Err(error) if error.is_status(409) => until(engine, &self.id, "removed").await,
            answer => answer,
        }
    }
}

async fn until(engine: &Engine, id: &str, condition: &str) -> Result<(), EngineError> {
    let options = WaitContainerOptionsBuilder::default().condition(condition).build();
    let answers = engine.docker.wait_container(id, Some(options)).map(|answer| match answer {
        // The client reports an exit code other than 0 as an error.
        Err(Error::DockerContainerWaitError { .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    });
    match engine.watched(answers).next().await {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) if error.is_missing_container() => Ok(()),
        Some(Err(error)) => Err(error),
        None => Err(EngineError::Gone("it closed the connection".into())),
    }
}

fn is_going_away(answer: &ContainerInspectResponse) -> bool {
    let status = answer.state.as_ref().and_then(|state| state.status);
    matches!(status, Some(Status::REMOVING | Status::DEAD))
}

fn exit(state: &ContainerState) -> Exit {
    let code = i32::try_from(state.exit_code.unwrap_or_default()).unwrap_or(i32::MAX);
    Exit { oom_killed: state.oom_killed == Some(true), ..Exit::from_code(code) }
}
