//! The [`Runtime`] trait: what runs attempts on a node. `testkit::runtime` checks the contract.

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

/// Runs attempts. The contract is between a backend and the agent.
///
/// A backend MUST:
/// - make every step idempotent: "already done" is a success. In particular `start` of an attempt that was
///   ever started (even one that has ended since) starts nothing, until it is removed;
/// - find in `list` everything that an earlier life of the agent left behind, so that a restart adopts
///   running work instead of starting it twice;
/// - touch nothing that it did not make itself;
/// - when the engine behind it is gone, answer [`RuntimeErrorKind::Unavailable`], never that the work is
///   gone.
///
/// Any future may be dropped at any point; the step may then have happened or not, and may be called again.
#[async_trait]
pub trait Runtime: Send + Sync + fmt::Debug + 'static {
    /// What this backend promises. Constant over its life.
    fn capabilities(&self) -> RuntimeCapabilities;

    /// Makes ready what `start` needs (an image, say). May take long; says how it goes through `progress`.
    ///
    /// # Errors
    /// [`RuntimeError`] with a kind for each thing that people can do something about.
    async fn prepare(&self, work: &Work, progress: &Progress) -> Result<(), RuntimeError>;

    /// Starts the attempt and returns when it runs.
    ///
    /// # Errors
    /// [`RuntimeError`]; nothing is left running. [`RuntimeErrorKind::NotFound`] when it may have run, and
    /// the engine has lost it.
    async fn start(&self, work: &Work) -> Result<Started, RuntimeError>;

    /// Takes over an attempt that an earlier life of the agent started, whether it still runs or has ended,
    /// and answers as its start did. Never starts anything.
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it is not here (any more), was never started, or went down with
    /// the machine.
    async fn adopt(&self, attempt: AttemptId) -> Result<Started, RuntimeError>;

    /// Waits until the attempt has ended, however it ended. Cancel safe.
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it was never started, is removed or is [lost](FoundState::Lost).
    async fn wait(&self, attempt: AttemptId) -> Result<Exit, RuntimeError>;

    /// Asks the attempt to stop by its spec's signal, kills it when `grace` is over, and returns when it has
    /// ended.
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it was never started, is removed or is [lost](FoundState::Lost).
    async fn stop(&self, attempt: AttemptId, grace: Duration) -> Result<(), RuntimeError>;

    /// Ends the attempt with everything it started, at once, and returns when it has ended.
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it was never started, is removed or is [lost](FoundState::Lost).
    async fn kill(&self, attempt: AttemptId) -> Result<(), RuntimeError>;

    /// Forgets the attempt and what was kept of it, killing it first when it runs. Removing what is not there
    /// is a success.
    ///
    /// # Errors
    /// [`RuntimeError`] when the engine could not.
    async fn remove(&self, attempt: AttemptId) -> Result<(), RuntimeError>;

    /// The attempt's output from the beginning of what is kept. With `follow` the stream goes on until the
    /// attempt has ended and everything was delivered, otherwise it ends with what there is now. Of a lost
    /// attempt there may be output still, to which nothing is added.
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it was never started or is removed.
    async fn logs(&self, attempt: AttemptId, follow: bool) -> Result<Logs, RuntimeError>;

    /// What the attempt uses now.
    ///
    /// # Errors
    /// [`RuntimeErrorKind::NotFound`] when it does not run, [`RuntimeErrorKind::Unsupported`] where `stats`
    /// is not declared.
    async fn stats(&self, attempt: AttemptId) -> Result<Usage, RuntimeError>;

    /// Everything of ours on this node, in order of attempts.
    ///
    /// # Errors
    /// [`RuntimeError`] when the engine could not be asked.
    async fn list(&self) -> Result<Vec<Found>, RuntimeError>;

    /// What happens to our attempts from now on. An attempt that is unhealthy already is told at the
    /// beginning, and again when `start` finds it: the agent may not know of it before. Ends with an error
    /// item when the engine is gone; call again then.
    ///
    /// # Errors
    /// [`RuntimeError`] when the engine could not be asked.
    async fn events(&self) -> Result<RuntimeEvents, RuntimeError>;
}

/// Output in order of arrival.
pub type Logs = BoxStream<'static, Result<LogChunk, RuntimeError>>;

/// Events in order of arrival.
pub type RuntimeEvents = BoxStream<'static, Result<RuntimeEvent, RuntimeError>>;

/// What a runtime promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeCapabilities {
    /// Short name for messages: `process`, `docker`.
    pub name: &'static str,
    /// The kind of work it takes.
    pub kind: WorkKind,
    /// Work goes on when the agent ends, and `list` finds it afterwards.
    pub adopts: bool,
    /// `stats` has an answer.
    pub stats: bool,
    /// Health checks of specs are carried out, and reported by `events`.
    pub health: bool,
    /// The memory limit of a spec is enforced.
    pub memory_limit: bool,
    /// The cpu limit of a spec is enforced.
    pub cpu_limit: bool,
}

/// An attempt to run, with everything that must not be in the cluster's state.
#[derive(Clone)]
pub struct Work {
    /// Which attempt.
    pub attempt: AttemptId,
    /// What to run.
    pub spec: SharedSpec,
    /// Values of the spec's secrets by name, and of its registry login.
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

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(value.into())
    }

    /// The value itself. Keep it out of messages and command lines.
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

/// An attempt that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The engine's own name for it: a container's id, a process id.
    pub handle: String,
    /// When it started, by the node's clock.
    pub at: Timestamp,
}

/// Something of ours that `list` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which attempt.
    pub attempt: AttemptId,
    /// The engine's own name for it.
    pub handle: String,
    /// What it is doing.
    pub state: FoundState,
    /// When it started, if it has.
    pub started_at: Option<Timestamp>,
}

/// What an attempt that `list` found is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundState {
    /// It was made and not started yet; `start` goes on from there.
    Created,
    /// It runs.
    Running,
    /// It has ended and was not removed yet.
    Ended(Exit),
    /// It was started, and the machine went down under it: what became of it is unknown. `start` answers
    /// [`RuntimeErrorKind::NotFound`] until it is removed.
    Lost,
}

/// What an attempt uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time so far, in milliseconds of one core.
    pub cpu_ms: u64,
    /// Main memory now, in bytes.
    pub memory_bytes: u64,
    /// Processes and threads now.
    pub pids: u64,
}

/// One of the two outputs of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogChunk {
    /// Where it was written to.
    pub stream: OutputStream,
    /// How many bytes of this stream came before it. Reading the same output again gives the same offsets,
    /// which makes repeated delivery harmless; a jump means that output was dropped.
    pub offset: u64,
    /// The bytes. A character may be split between two chunks.
    pub data: Bytes,
}

/// Something that happened to an attempt of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// It has ended.
    Ended {
        /// Which attempt.
        attempt: AttemptId,
    },
    /// Its health check gave another verdict than before: it passed, or it failed as often in a row as the
    /// spec allows ([`HealthCheck::retries`](crate::model::HealthCheck::retries)). The runtime counts.
    Health {
        /// Which attempt.
        attempt: AttemptId,
        /// Whether it is well.
        healthy: bool,
        /// What the check printed, cut short.
        output: String,
    },
}

/// Receives what `prepare` has to tell. Cheap to clone; loses messages rather than waiting for a slow reader.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(String) + Send + Sync>);

impl Progress {
    /// Calls `report` with each message.
    #[must_use]
    pub fn new(report: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(report))
    }

    /// Ignores everything.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    /// Says how it goes, in words for people: `pulling layer 3 of 7, 42%`.
    pub fn say(&self, message: impl Into<String>) {
        (self.0)(message.into());
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// Why a runtime could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeError {
    /// Which sort of trouble.
    pub kind: RuntimeErrorKind,
    /// What happened, with the engine's own words. Never holds a secret.
    pub message: String,
}

/// The sorts of trouble that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RuntimeErrorKind {
    /// The attempt is not here.
    NotFound,
    /// The engine does not answer. Nothing is known about the work; ask again.
    Unavailable,
    /// The image does not exist, here or in its registry.
    ImageNotFound,
    /// The image's reference cannot be read.
    BadReference,
    /// The registry wants a login, or refused ours.
    CredentialsRefused,
    /// The registry does not answer.
    RegistryUnavailable,
    /// The disk is full.
    NoSpace,
    /// The spec asks for something that cannot work: no such program, user, directory, secret.
    InvalidSpec,
    /// This runtime does not offer it.
    Unsupported,
    /// Anything else.
    Internal,
}

impl RuntimeErrorKind {
    /// Whether another attempt could end differently.
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

    /// The word that programs see.
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
    /// An error of `kind`.
    #[must_use]
    pub fn new(kind: RuntimeErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The error for an attempt that is not here.
    #[must_use]
    pub fn not_found(attempt: AttemptId) -> Self {
        Self::new(RuntimeErrorKind::NotFound, format!("attempt {attempt} is not here"))
    }

    /// How it is reported to the cluster when it kept an attempt from starting.
    #[must_use]
    pub fn into_start_failure(self) -> StartFailure {
        StartFailure {
            reason: self.kind.as_str().into(),
            message: self.message,
            retryable: self.kind.is_retryable(),
        }
    }
}
