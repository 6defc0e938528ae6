//! The [`Runtime`] trait: execution of attempts on a node. `testkit::runtime` checks the contract.

#[cfg(target_os = "linux")]
mod process;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

#[cfg(target_os = "linux")]
pub use process::{ProcessRuntime, ProcessRuntimeConfig};

use crate::model::{AttemptId, Exit, SharedSpec, StartFailure, Timestamp, WorkKind};

/// Backend that runs attempts. The contract is between a backend and the agent.
///
/// A backend MUST:
/// - make every step idempotent: "already done" is a success. In particular `start` of an attempt that was
///   ever started (even one that has ended since) starts nothing, until it is removed;
/// - find in `list` every attempt of an earlier incarnation of the agent, so that a restart adopts running
///   work instead of starting it twice;
/// - touch nothing that it did not create itself;
/// - when the engine behind it is unreachable, return [`RuntimeErrorKind::Unavailable`], never report the
///   work as ended.
///
/// Any future may be dropped at any point; the step may then have happened or not, and may be called again.
#[async_trait]
pub trait Runtime: Send + Sync + fmt::Debug + 'static {
    /// Capabilities of this backend. Constant over its lifetime.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// let capabilities = SimulatedRuntime::new().capabilities();
    /// assert_eq!(capabilities.kind, WorkKind::Program);
    /// assert!(capabilities.adopts && !capabilities.stats);
    /// # });
    /// ```
    fn capabilities(&self) -> RuntimeCapabilities;

    /// Prepares what `start` needs (pulls an image, for example). May take long; reports through `progress`.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// let runtime = SimulatedRuntime::new();
    /// let work = SimulatedRuntime::work("hang");
    /// runtime.prepare(&work, &Progress::none()).await.unwrap();
    /// assert!(runtime.list().await.unwrap().is_empty(), "nothing is started yet");
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`RuntimeError`] with a separate kind for each cause that people can act on.
    async fn prepare(&self, work: &Work, progress: &Progress) -> Result<(), RuntimeError>;

    /// Starts the attempt and returns when it runs.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// let runtime = SimulatedRuntime::new();
    /// let work = SimulatedRuntime::work("hang");
    /// let started = runtime.start(&work).await.unwrap();
    /// assert_eq!(runtime.start(&work).await.unwrap(), started, "it is there already");
    /// assert_eq!(runtime.starts(), [work.attempt]);
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`RuntimeError`]; nothing is left running. [`RuntimeErrorKind::NotFound`] when the attempt may have
    /// run, and the engine has lost it.
    async fn start(&self, work: &Work) -> Result<Started, RuntimeError>;

    /// Adopts an attempt that an earlier incarnation of the agent started, whether it still runs or has
    /// ended, and returns the same as its start did. Never starts anything.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// let runtime = SimulatedRuntime::new();
    /// let work = SimulatedRuntime::work("hang");
    /// let started = runtime.start(&work).await.unwrap();
    /// let next_incarnation = runtime.clone();
    /// assert_eq!(next_incarnation.adopt(work.attempt).await.unwrap(), started);
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it is not here (any more), was never started, or was lost with the
    /// machine.
    async fn adopt(&self, attempt: AttemptId) -> Result<Started, RuntimeError>;

    /// Waits until the attempt has ended and returns its exit status. Cancel safe.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// let runtime = SimulatedRuntime::new();
    /// let work = SimulatedRuntime::work("exit 3");
    /// runtime.start(&work).await.unwrap();
    /// assert_eq!(runtime.wait(work.attempt).await.unwrap(), Exit::from_code(3));
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it was never started, is removed or is [lost](FoundState::Lost).
    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError>;

    /// Sends the stop signal of the attempt's spec, kills it when `grace` is over, and returns when it has
    /// ended.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// let runtime = SimulatedRuntime::new();
    /// let work = SimulatedRuntime::work("hang");
    /// runtime.start(&work).await.unwrap();
    /// runtime.stop(work.attempt, std::time::Duration::from_secs(10)).await.unwrap();
    /// assert!(!runtime.wait(work.attempt).await.unwrap().is_success());
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it was never started, is removed or is [lost](FoundState::Lost).
    async fn stop(&self, attempt: AttemptId, grace: Duration) -> Result<(), RuntimeError>;

    /// Kills the attempt with all its processes at once, and returns when it has ended.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// let runtime = SimulatedRuntime::new();
    /// let work = SimulatedRuntime::work("hang");
    /// runtime.start(&work).await.unwrap();
    /// runtime.kill(work.attempt).await.unwrap();
    /// assert_eq!(runtime.wait(work.attempt).await.unwrap(), Exit::from_code(137));
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it was never started, is removed or is [lost](FoundState::Lost).
    async fn kill(&self, attempt: AttemptId) -> Result<(), RuntimeError>;

    /// Removes the attempt and everything kept of it, killing it first when it runs. Removing an attempt that
    /// does not exist is a success.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// let runtime = SimulatedRuntime::new();
    /// let work = SimulatedRuntime::work("true");
    /// runtime.start(&work).await.unwrap();
    /// runtime.remove(work.attempt).await.unwrap();
    /// let removed = runtime.wait(work.attempt).await.unwrap_err();
    /// assert_eq!(removed.kind, RuntimeErrorKind::NotFound);
    /// runtime.remove(work.attempt).await.unwrap();
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`RuntimeError`] when the engine failed to remove it.
    async fn remove(&self, attempt: AttemptId) -> Result<(), RuntimeError>;

    /// Output of the attempt from the oldest retained byte. With `follow` the stream continues until the
    /// attempt has ended and everything was delivered, otherwise it ends with the output that exists now. A
    /// lost attempt may still have output, which does not grow.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// # use futures_util::StreamExt as _;
    /// let runtime = SimulatedRuntime::new();
    /// let work = SimulatedRuntime::work("say hello");
    /// runtime.start(&work).await.unwrap();
    /// let mut logs = runtime.logs(work.attempt, true).await.unwrap();
    /// assert_eq!(logs.next().await.unwrap().unwrap().data, "hello\n");
    /// assert!(logs.next().await.is_none());
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it was never started or is removed.
    async fn logs(&self, attempt: AttemptId, follow: bool) -> Result<Logs, RuntimeError>;

    /// Current resource usage of the attempt.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// let runtime = SimulatedRuntime::new();
    /// let work = SimulatedRuntime::work("hang");
    /// runtime.start(&work).await.unwrap();
    /// // This runtime does not declare the capability.
    /// let unsupported = runtime.stats(work.attempt).await.unwrap_err();
    /// assert_eq!(unsupported.kind, RuntimeErrorKind::Unsupported);
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it does not run, [`RuntimeErrorKind::Unsupported`] where the
    /// capability `stats` is not declared.
    async fn stats(&self, attempt: AttemptId) -> Result<Usage, RuntimeError>;

    /// All attempts that this runtime has on the node, in order of their ids.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// let runtime = SimulatedRuntime::new();
    /// let work = SimulatedRuntime::work("hang");
    /// runtime.start(&work).await.unwrap();
    /// let found = runtime.list().await.unwrap();
    /// assert_eq!((found[0].attempt, found[0].state), (work.attempt, FoundState::Running));
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`RuntimeError`] when the engine did not respond.
    async fn list(&self) -> Result<Vec<Found>, RuntimeError>;

    /// Events of our attempts from now on. An attempt that is unhealthy already is reported at the beginning,
    /// and again when `start` finds it: the agent may not know of it before. Ends with an error item when the
    /// engine becomes unreachable; call again then.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{model::*, runtime::*, testkit::SimulatedRuntime};
    /// let runtime = SimulatedRuntime::new();
    /// runtime.set_available(false);
    /// let unavailable = runtime.events().await.err().unwrap();
    /// assert_eq!(unavailable.kind, RuntimeErrorKind::Unavailable);
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`RuntimeError`] when the engine did not respond.
    async fn events(&self) -> Result<RuntimeEvents, RuntimeError>;
}

/// Output in order of arrival.
pub type Logs = BoxStream<'static, Result<LogChunk, RuntimeError>>;

/// Events in order of arrival.
pub type RuntimeEvents = BoxStream<'static, Result<RuntimeEvent, RuntimeError>>;

/// Capabilities of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeCapabilities {
    /// Short name for messages: `process`, `docker`.
    pub name: &'static str,
    /// Kind of work that it accepts.
    pub kind: WorkKind,
    /// Whether work continues when the agent exits, and `list` finds it afterwards.
    pub adopts: bool,
    /// Whether `stats` is supported.
    pub stats: bool,
    /// Whether health checks of specs are executed, and reported by `events`.
    pub health: bool,
    /// Whether the memory limit of a spec is enforced.
    pub memory_limit: bool,
    /// Whether the cpu limit of a spec is enforced.
    pub cpu_limit: bool,
}

impl RuntimeCapabilities {
    /// A runtime that declares nothing beyond the work that it accepts.
    #[must_use]
    pub const fn new(name: &'static str, kind: WorkKind) -> Self {
        Self { name, kind, adopts: false, stats: false, health: false, memory_limit: false, cpu_limit: false }
    }

    /// The same, of a runtime whose work continues when the agent exits.
    #[must_use]
    pub const fn adopts(self) -> Self {
        Self { adopts: true, ..self }
    }

    /// The same, of a runtime that supports `stats`.
    #[must_use]
    pub const fn stats(self) -> Self {
        Self { stats: true, ..self }
    }

    /// The same, of a runtime that executes health checks.
    #[must_use]
    pub const fn health(self) -> Self {
        Self { health: true, ..self }
    }

    /// The same, of a runtime that enforces limits of memory and cpu.
    #[must_use]
    pub const fn limits(self) -> Self {
        Self { memory_limit: true, cpu_limit: true, ..self }
    }
}

/// Attempt to run, with the values that must not be in the cluster's state.
#[derive(Clone)]
pub struct Work {
    /// Id of the attempt.
    pub attempt: AttemptId,
    /// Spec of the task.
    pub spec: SharedSpec,
    /// Values of the spec's secrets by name, and of its registry credentials.
    pub secrets: BTreeMap<String, Secret>,
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("attempt", &self.attempt)
            .field("spec", &self.spec)
            .field("secrets", &self.secrets.keys())
            .finish()
    }
}

/// Secret value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(value.into())
    }

    /// Value in the clear. Keep it out of messages and command lines.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Attempt that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Name of the attempt within the engine: a container's id, a process id.
    pub handle: String,
    /// Time of the start, by the node's clock.
    pub at: Timestamp,
}

/// Attempt that `list` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Id of the attempt.
    pub attempt: AttemptId,
    /// Name of the attempt within the engine.
    pub handle: String,
    /// State of the attempt.
    pub state: FoundState,
    /// Time of the start, if it was started.
    pub started_at: Option<Timestamp>,
}

/// State of an attempt that `list` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundState {
    /// The attempt was created and not started yet; `start` continues from there.
    Created,
    /// The attempt runs.
    Running,
    /// The attempt has ended and was not removed yet.
    Ended(Exit),
    /// The attempt was started, and the machine went down under it: its exit status is unknown. `start`
    /// returns [`RuntimeErrorKind::NotFound`] until it is removed.
    Lost,
}

/// Resource usage of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Cpu time so far, in milliseconds of one core.
    pub cpu_ms: u64,
    /// Main memory in use, in bytes.
    pub memory_bytes: u64,
    /// Current number of processes and threads.
    pub pids: u64,
}

/// Output stream of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// Chunk of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// Stream to which it was written.
    pub stream: OutputStream,
    /// Offset of its first byte in the stream. Reading the same output again gives the same offsets, which
    /// makes repeated delivery harmless; a jump means that output was dropped.
    pub offset: u64,
    /// Bytes of the chunk. A character may be split between two chunks.
    pub data: Bytes,
}

/// Event of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// The attempt has ended.
    Ended {
        /// Id of the attempt.
        attempt: AttemptId,
    },
    /// The result of its health check changed: it passed, or it failed as often in a row as the spec allows
    /// ([`HealthCheck::retries`](crate::model::HealthCheck::retries)). The runtime counts the failures.
    Health {
        /// Id of the attempt.
        attempt: AttemptId,
        /// Whether the attempt is healthy.
        healthy: bool,
        /// Output of the check, truncated.
        output: String,
    },
}

/// Receiver of progress messages of `prepare`. Cheap to clone; drops messages rather than waiting for a slow
/// reader.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(String) + Send + Sync>);

impl Progress {
    /// Receiver that calls `report` with each message.
    #[must_use]
    pub fn new(report: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    /// Receiver that ignores all messages.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    /// Reports progress, as text for people: `pulling layer 3 of 7, 42%`.
    pub fn say(&self, message: impl Into<String>) {
        (self.0)(message.into());
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// Error of a runtime.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeError {
    /// Kind of the error.
    pub kind: RuntimeErrorKind,
    /// Description, with the engine's own message. Never contains a secret.
    pub message: String,
}

/// Kinds of errors that callers distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RuntimeErrorKind {
    /// The attempt does not exist here.
    NotFound,
    /// The engine does not respond. The state of the work is unknown; ask again.
    Unavailable,
    /// The image does not exist, here or in its registry.
    ImageNotFound,
    /// The image's reference cannot be parsed.
    BadReference,
    /// The registry requires credentials, or refused ours.
    CredentialsRefused,
    /// The registry does not respond.
    RegistryUnavailable,
    /// The disk is full.
    NoSpace,
    /// The spec refers to something that cannot work: no such program, user, directory, secret.
    InvalidSpec,
    /// This runtime does not support the request.
    Unsupported,
    /// Any other error.
    Internal,
}

impl RuntimeErrorKind {
    /// Whether a retry may succeed.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        !matches!(
            self,
            Self::ImageNotFound
                | Self::BadReference
                | Self::CredentialsRefused
                | Self::InvalidSpec
                | Self::Unsupported
        )
    }

    /// Code for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Unavailable => "engine_unavailable",
            Self::ImageNotFound => "image_not_found",
            Self::BadReference => "bad_reference",
            Self::CredentialsRefused => "credentials_refused",
            Self::RegistryUnavailable => "registry_unavailable",
            Self::NoSpace => "no_space",
            Self::InvalidSpec => "invalid_spec",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }
}

impl RuntimeError {
    /// Error of `kind`.
    #[must_use]
    pub fn new(kind: RuntimeErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Error for an attempt that does not exist here.
    #[must_use]
    pub fn not_found(attempt: AttemptId) -> Self {
        Self::new(RuntimeErrorKind::NotFound, format!("attempt {attempt} is not here"))
    }

    /// Start failure that is reported to the cluster when this error kept an attempt from starting.
    #[must_use]
    pub fn into_start_failure(self) -> StartFailure {
        StartFailure {
            reason: self.kind.as_str().into(),
            message: self.message,
            retryable: self.kind.is_retryable(),
        }
    }
}
