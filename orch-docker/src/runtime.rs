//! [`DockerRuntime`]: the methods of the trait, built from the modules beside this one.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, StartContainerOptions,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use orch_core::{
    model::{AttemptId, Exit, PullPolicy, WorkKind, Workload},
    runtime::{
        Found, FoundState, Logs, Progress, Runtime, RuntimeCapabilities, RuntimeError, RuntimeErrorKind,
        RuntimeEvents, Started, Usage, Work,
    },
};
use tokio::sync::{Semaphore, watch};

use crate::{
    DockerConfig,
    claim::Claim,
    container::{Container, Lookup},
    credentials,
    engine::Engine,
    errors::EngineError,
    events,
    held::Held,
    identity::Identity,
    keyed::KeyedLocks,
    log_offsets::LogOffsets,
    logs,
    pull::{Puller, closed},
    secrets, spec, stats,
    uncertain_starts::UncertainStarts,
};

/// Number of containers that `list` inspects at a time.
const INSPECTIONS_IN_FLIGHT: usize = 8;

/// Pause before a container is inspected again whose engine reports both that it has ended and that it runs.
const SETTLE: Duration = Duration::from_millis(100);

/// [`Runtime`] that runs attempts as containers of a Docker engine. See the crate's page for its guarantees.
#[derive(Debug)]
pub struct DockerRuntime {
    engine: Engine,
    config: DockerConfig,
    identity: Identity,
    claim: Claim,
    puller: Puller,
    starts: Semaphore,
    /// Start and remove of one attempt exclude each other: a second start that finds the container created
    /// but not yet started could otherwise start it again after a quick end.
    attempts: KeyedLocks<AttemptId>,
    uncertain_starts: UncertainStarts,
    held: Held,
    /// Notified when a start turns out to be the adoption of a container that is unhealthy already.
    adopted: watch::Sender<()>,
}

impl DockerRuntime {
    /// Connects to the engine and checks that it responds. Later outages are tolerated.
    ///
    /// # Errors
    /// [`RuntimeErrorKind::Unavailable`] when it does not respond, [`RuntimeErrorKind::InvalidSpec`] when the
    /// configuration is invalid.
    pub async fn connect(config: DockerConfig) -> Result<Self, RuntimeError> {
        config.validate().map_err(|error| {
            RuntimeError::new(RuntimeErrorKind::InvalidSpec, format!("docker configuration: {error}"))
        })?;
        Ok(Self {
            engine: Engine::connect(&config).await?,
            identity: Identity::new(&config),
            claim: Claim::default(),
            puller: Puller::new(config.pulls_in_flight, config.pull_stall_timeout),
            starts: Semaphore::new(config.starts_in_flight.get()),
            attempts: KeyedLocks::default(),
            uncertain_starts: UncertainStarts::default(),
            held: Held::default(),
            adopted: watch::Sender::new(()),
            config,
        })
    }

    async fn find(&self, attempt: AttemptId) -> Result<Container, RuntimeError> {
        let found = Container::find(&self.engine, &self.identity, attempt).await?;
        found.ok_or_else(|| self.missing(attempt))
    }

    async fn find_started(&self, attempt: AttemptId) -> Result<Container, RuntimeError> {
        let container = self.find(attempt).await?;
        match container.was_started() {
            true => Ok(container),
            false => Err(self.missing(attempt)),
        }
    }

    /// Our container for the attempt that was started, and was not lost with the machine.
    async fn find_known(&self, attempt: AttemptId) -> Result<Container, RuntimeError> {
        let container = self.find_started(attempt).await?;
        match container.state {
            FoundState::Lost => Err(lost(attempt)),
            _ => Ok(container),
        }
    }

    /// Error for an attempt that has no container, or none that was started.
    fn missing(&self, attempt: AttemptId) -> RuntimeError {
        match self.held.has(attempt) {
            true => RuntimeError::new(
                RuntimeErrorKind::NotFound,
                format!("attempt {attempt} is not here any more: the container was removed from outside"),
            ),
            false => RuntimeError::not_found(attempt),
        }
    }

    fn secrets_of(&self, attempt: AttemptId) -> PathBuf {
        self.config.secrets_dir.join(self.identity.name(attempt))
    }

    /// Path of the file with the log offsets of the attempt.
    fn log_offsets_path(&self, attempt: AttemptId) -> PathBuf {
        self.config.state_dir.join(format!("{}.json", self.identity.name(attempt)))
    }

    /// Our container for the attempt: the existing one, or a new one that is not started yet.
    async fn find_or_create(&self, work: &Work) -> Result<Container, RuntimeError> {
        let name = self.identity.name(work.attempt);
        let operation = format!("create container {name}");
        let look_up = || Container::look_up(&self.engine, &self.identity, &name);
        let failed = |error: EngineError| error.into_create(&operation);
        if let Lookup::Ours(container) = look_up().await.map_err(failed)? {
            return Ok(container);
        }
        let image = spec::image(work)?;
        let files = match secrets::wants_files(work) {
            true => {
                let user = self.user_of(work, image.as_str()).await?;
                secrets::write(work, &self.secrets_of(work.attempt), &user).await?
            }
            false => Vec::new(),
        };
        let body = spec::container(work, &files, &self.identity, &self.config)?;
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        match self.engine.order(self.engine.docker.create_container(Some(options), body)).await {
            Ok(_) => {}
            // An earlier request of ours, whose response was lost, may have succeeded just now.
            Err(error) if error.is_status(409) => {}
            Err(error) => return Err(error.into_create(&operation)),
        }
        match look_up().await.map_err(failed)? {
            Lookup::Ours(container) => Ok(container),
            // Remainder of an earlier request of ours, which will be complete or removed when the agent
            // retries.
            Lookup::Free => Err(RuntimeError::new(
                RuntimeErrorKind::Unavailable,
                format!("cannot {operation}: the engine is still busy with a container of this name"),
            )),
            Lookup::Foreign => Err(RuntimeError::new(
                RuntimeErrorKind::Internal,
                format!("cannot {operation}: the name is taken by a container that is not this agent's"),
            )),
        }
    }

    /// User of the container: the spec's, else the image's.
    async fn user_of(&self, work: &Work, image: &str) -> Result<String, RuntimeError> {
        if let Some(user) = &work.spec.isolation.user {
            return Ok(user.clone());
        }
        let answer = self.engine.ask(self.engine.docker.inspect_image(image)).await;
        let image = answer.map_err(|error| error.into_create(&format!("look at image {image}")))?;
        Ok(image.config.and_then(|config| config.user).unwrap_or_default())
    }

    /// Creates and starts the container. An image that was removed since it was prepared is pulled again,
    /// once.
    async fn create_and_start(&self, work: &Work) -> Result<Container, RuntimeError> {
        match self.try_create_and_start(work).await {
            Err(error) if error.kind == RuntimeErrorKind::ImageNotFound => {}
            answer => return answer,
        }
        self.prepare(work, &Progress::none()).await?;
        self.try_create_and_start(work).await.map_err(|error| match error.kind {
            RuntimeErrorKind::ImageNotFound => RuntimeError::new(
                RuntimeErrorKind::Internal,
                format!("{error}; it is removed as soon as it is there: look for what cleans up images on this node"),
            ),
            _ => error,
        })
    }

    async fn try_create_and_start(&self, work: &Work) -> Result<Container, RuntimeError> {
        let _permit = self.starts.acquire().await.map_err(|_| closed())?;
        let container = self.find_or_create(work).await?;
        if container.was_started() {
            self.note_adopted(&container, work.attempt);
            return Ok(container);
        }
        let operation = format!("start attempt {}", work.attempt);
        if self.uncertain_starts.contains(work.attempt) {
            return Err(RuntimeError::new(
                RuntimeErrorKind::NotFound,
                format!(
                    "cannot {operation} again: the engine did not answer the first time, and it may have run"
                ),
            ));
        }
        let start = self.engine.docker.start_container(&container.id, None::<StartContainerOptions>);
        self.uncertain_starts.add(work.attempt);
        let answer = self.engine.order(start).await;
        if !matches!(answer, Err(EngineError::BrokenOff(_))) {
            self.uncertain_starts.remove(work.attempt);
        }
        if let Err(error) = answer {
            return Err(error.into_start(&operation));
        }
        self.held.add(work.attempt);
        self.find(work.attempt).await
    }

    fn note_adopted(&self, container: &Container, attempt: AttemptId) {
        self.uncertain_starts.remove(attempt);
        self.held.add(attempt);
        if container.is_unhealthy {
            self.adopted.send_replace(());
        }
    }

    async fn remove_all_of(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        self.held.let_go(attempt);
        if let Some(container) = Container::find(&self.engine, &self.identity, attempt).await? {
            let removed = container.remove(&self.engine).await;
            removed.map_err(|error| error.into_runtime(&format!("remove attempt {attempt}")))?;
        }
        self.uncertain_starts.remove(attempt);
        let log_offsets = self.log_offsets_path(attempt);
        LogOffsets::remove(&log_offsets).await.map_err(|error| {
            RuntimeError::new(
                RuntimeErrorKind::Internal,
                format!("cannot remove {}: {error}", log_offsets.display()),
            )
        })?;
        secrets::remove(&self.secrets_of(attempt)).await
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::new("docker", WorkKind::Image).adopts().stats().health().limits()
    }

    async fn prepare(&self, work: &Work, progress: &Progress) -> Result<(), RuntimeError> {
        let image = spec::image(work)?;
        let policy = match work.spec.workload {
            Workload::Image { pull, .. } => pull,
            Workload::Program { .. } => PullPolicy::default(), // refused just above
        };
        let credentials = credentials::of(work, &image)?;
        self.puller.ensure(&self.engine, &image, policy, credentials, progress).await
    }

    async fn start(&self, work: &Work) -> Result<Started, RuntimeError> {
        self.claim.take(&self.engine, &self.identity).await?;
        let _ours = self.attempts.lock(work.attempt).await;
        let container = match self.create_and_start(work).await {
            // The container stays until it is removed, so that it is not started a second time.
            Ok(container) if container.state == FoundState::Lost => return Err(lost(work.attempt)),
            Ok(container) => container,
            Err(error) => {
                // A container that cannot start must not be left. When the removal fails as well, `list`
                // still shows it.
                if error.kind != RuntimeErrorKind::Unavailable
                    && let Err(left) = self.remove_all_of(work.attempt).await
                {
                    tracing::warn!(attempt = %work.attempt, error = %left, "cannot remove a container that did not start");
                }
                return Err(error);
            }
        };
        let at = container.started_at.unwrap_or_default();
        Ok(Started { handle: container.id, at })
    }

    async fn adopt(&self, attempt: AttemptId) -> Result<Started, RuntimeError> {
        self.claim.take(&self.engine, &self.identity).await?;
        let container = self.find_known(attempt).await?;
        self.note_adopted(&container, attempt);
        let at = container.started_at.unwrap_or_default();
        Ok(Started { handle: container.id, at })
    }

    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError> {
        let mut container = self.find_known(attempt).await?;
        loop {
            if let FoundState::Ended(exit) = container.state {
                return Ok(exit);
            }
            let ended = container.ended(&self.engine).await;
            ended.map_err(|error| error.into_attempt(&format!("wait for attempt {attempt}")))?;
            container = self.find_known(attempt).await?;
            if container.state == FoundState::Running {
                // The container was started again by somebody else.
                tokio::time::sleep(SETTLE).await;
            }
        }
    }

    async fn stop(&self, attempt: AttemptId, grace: Duration) -> Result<(), RuntimeError> {
        let container = self.find_known(attempt).await?;
        let stopped = container.stop(&self.engine, grace).await;
        stopped.map_err(|error| error.into_attempt(&format!("stop attempt {attempt}")))
    }

    async fn kill(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        let container = self.find_known(attempt).await?;
        let killed = container.kill(&self.engine).await;
        killed.map_err(|error| error.into_attempt(&format!("kill attempt {attempt}")))
    }

    async fn remove(&self, attempt: AttemptId) -> Result<(), RuntimeError> {
        let _ours = self.attempts.lock(attempt).await;
        self.remove_all_of(attempt).await
    }

    async fn logs(&self, attempt: AttemptId, follow: bool) -> Result<Logs, RuntimeError> {
        let container = self.find_started(attempt).await?;
        logs::read(&self.engine, &self.identity, container, self.log_offsets_path(attempt), follow).await
    }

    async fn stats(&self, attempt: AttemptId) -> Result<Usage, RuntimeError> {
        let container = self.find(attempt).await?;
        if container.state != FoundState::Running {
            return Err(RuntimeError::not_found(attempt));
        }
        let usage = stats::read(&self.engine, &container).await;
        let usage =
            usage.map_err(|error| error.into_attempt(&format!("read what attempt {attempt} uses")))?;
        usage.ok_or_else(|| RuntimeError::not_found(attempt))
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        self.claim.take(&self.engine, &self.identity).await?;
        let options =
            ListContainersOptionsBuilder::default().all(true).filters(&self.identity.filter()).build();
        let answer = self.engine.ask(self.engine.docker.list_containers(Some(options))).await;
        let summaries = answer.map_err(|error| error.into_runtime("list containers"))?;
        let attempts = summaries.into_iter().filter_map(|one| self.identity.attempt(&one.labels?));
        let mut found: Vec<Found> = stream::iter(attempts)
            .map(|attempt| Container::find(&self.engine, &self.identity, attempt))
            .buffer_unordered(INSPECTIONS_IN_FLIGHT)
            .try_filter_map(async |container| Ok(container.map(Container::into_found)))
            .try_collect()
            .await?;
        found.sort_by_key(|found| found.attempt);
        Ok(found)
    }

    async fn events(&self) -> Result<RuntimeEvents, RuntimeError> {
        events::subscribe(&self.engine, &self.identity, self.adopted.subscribe()).await
    }
}

fn lost(attempt: AttemptId) -> RuntimeError {
    RuntimeError::new(
        RuntimeErrorKind::NotFound,
        format!(
            "attempt {attempt} is lost: the machine went down under it, and what became of it is not known"
        ),
    )
}
