//! Specification of a task: [`TaskSpec`] and its parts.
//!
//! The common case is one line:
//!
//! ```
//! use orch_core::model::TaskSpec;
//!
//! let hello = TaskSpec::program("hello", "echo").args(["hello", "world"]);
//! let built = TaskSpec::image("build", "busybox:1.36").command(["make"]).cpu_millis(500).memory_mib(256);
//! # assert!(hello.validate(&Default::default()).is_ok() && built.validate(&Default::default()).is_ok());
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    AttemptId, Isolation, Namespace, NodeLossPolicy, Resources, SpareIsolation,
    time::{millis, opt_millis},
};

/// Specification of one unit of work, immutable once it is submitted. Every field but `name` and `workload`
/// has a default and is left out of the JSON when it holds it. Unknown fields are refused, so that a misspelt
/// limit is never ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Name for people. Need not be unique; ids are.
    pub name: String,
    /// Namespace that owns the task.
    #[serde(default, skip_serializing_if = "Namespace::is_default")]
    pub namespace: Namespace,
    /// Program or image to run.
    pub workload: Workload,
    /// Arguments of the program, or of the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables. Not for secrets: everybody who may read the task reads these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory; the image's or the agent's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Resources reserved on the node while the task is placed there, and limits while it runs.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Scheduling priority; pending tasks with a higher one go first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Time limits of each stage.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// Ends of an attempt that lead to another attempt.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: RestartPolicy,
    /// Number of attempts and the delay between them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retry: RetryPolicy,
    /// Policy for the loss of the task's node; see [`TaskSpec::node_loss_policy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_loss: Option<Box<NodeLossPolicy>>,
    /// Constraints on the labels of a node; all of them must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// Isolation from the node.
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolation: SpareIsolation,
    /// Directories of the node, volumes or memory that are mounted into the task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Health check of the running task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Box<HealthCheck>>,
    /// Signal and grace period of a stop.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stop: StopPolicy,
    /// Maximum output kept, in bytes, both streams together; the oldest is dropped first.
    #[serde(default = "default_output_limit", skip_serializing_if = "is_default_output_limit")]
    pub output_limit_bytes: u64,
    /// Secrets passed to the task, by reference. Values never pass through the cluster's state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretRef>,
    /// Labels for people and programs; the cluster does not interpret them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Signature of the submitter, if the spec is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Box<SubmitterSignature>>,
}

/// Program or image that a task runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Workload {
    /// A container of an image.
    Image {
        /// Reference of the image: `busybox:1.36`, `registry.example/app@sha256:...`.
        image: String,
        /// Replaces the image's entry point.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        command: Vec<String>,
        /// Pull policy of the image.
        #[serde(default, skip_serializing_if = "is_default")]
        pull: PullPolicy,
        /// Name of the registry credentials that the agent holds for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        registry_credentials: Option<String>,
    },
    /// An operating-system process on the node.
    Program {
        /// Path of the program, or a name that is looked up in the agent's `PATH`.
        program: String,
    },
}

/// Kinds of work by which runtimes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// Containers of images as they are, without any setting that an executor which takes nothing but an
    /// image would ignore (a command, arguments, mounts, ...). Nodes of such executors accept this kind only.
    PlainImage,
    /// Containers of images.
    Image,
    /// Operating-system processes.
    Program,
}

impl std::fmt::Display for WorkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::PlainImage => "plain image",
            Self::Image => "image",
            Self::Program => "program",
        })
    }
}

impl WorkKind {
    /// Whether a node that accepts `kinds` accepts work of this kind.
    #[must_use]
    pub fn is_taken_by(self, kinds: &BTreeSet<Self>) -> bool {
        kinds.contains(&self) || (self == Self::PlainImage && kinds.contains(&Self::Image))
    }
}

/// Times at which an image is fetched from its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// Only when the node does not have it.
    #[default]
    IfMissing,
    /// Before every attempt.
    Always,
    /// Never: an image that is missing on the node is an error.
    Never,
}

/// Time limits of each stage; no limit where absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// Time limit from submission (or the end of the previous attempt) to a placement.
    #[serde(rename = "queue_ms", with = "opt_millis", skip_serializing_if = "Option::is_none")]
    pub queue: Option<Duration>,
    /// Time limit from the start of an attempt to its end.
    #[serde(rename = "run_ms", with = "opt_millis", skip_serializing_if = "Option::is_none")]
    pub run: Option<Duration>,
    /// Time limit from submission to the end, all attempts together.
    #[serde(rename = "total_ms", with = "opt_millis", skip_serializing_if = "Option::is_none")]
    pub total: Option<Duration>,
}

/// Ends of an attempt that lead to another attempt. Attempts that ended through no fault of the task (lost
/// node, drain) do not count against [`RetryPolicy::max_attempts`]; lost nodes are bounded by
/// ([`ClusterConfig::node_losses_max`](crate::state::ClusterConfig::node_losses_max)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Failures and run timeouts, as often as [`RetryPolicy::max_attempts`] says.
    #[default]
    OnFailure,
    /// Retries after all ends, success included, without limit: for services.
    Always,
    /// Retries after no end, not even a lost node: for work that must not be started twice.
    Never,
}

/// Number of attempts of a task and the delay between them: the delay starts at `backoff`, doubles with each
/// failure up to `backoff_max`, and is shortened by a jitter of up to a quarter that depends on the attempt
/// id alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Failures that end the task, at least one. One means no retry.
    pub max_attempts: NonZeroU32,
    /// Delay after the first failure.
    #[serde(rename = "backoff_ms", with = "millis")]
    pub backoff: Duration,
    /// Longest delay.
    #[serde(rename = "backoff_max_ms", with = "millis")]
    pub backoff_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: NonZeroU32::MIN,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// Delay after failure number `failures` (from 1) of a task. The same on every replica: the jitter is
    /// drawn from the attempt's id, not from a random source.
    #[must_use]
    pub fn delay(&self, failed: AttemptId, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.backoff.saturating_mul(1 << doublings).min(self.backoff_max);
        let mut hash = Sha256::new();
        hash.update(failed.task.as_bytes());
        hash.update(failed.attempt.get().to_be_bytes());
        let jitter = u32::from(hash.finalize()[0]); // 0..=255 of 1024: at most a quarter
        full - full / 1024 * jitter
    }
}

/// Condition on a node's labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Constraint {
    /// The label has this value.
    Equals {
        /// Key of the label.
        label: String,
        /// Required value.
        value: String,
    },
    /// The label is absent or has another value.
    NotEquals {
        /// Key of the label.
        label: String,
        /// Excluded value.
        value: String,
    },
    /// The label exists, whatever its value.
    Exists {
        /// Key of the label.
        label: String,
    },
    /// The node is exactly this one.
    Node {
        /// Id of the node.
        node: super::NodeId,
    },
}

impl std::fmt::Display for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Equals { label, value } => write!(f, "{label}={value}"),
            Self::NotEquals { label, value } => write!(f, "{label}!={value}"),
            Self::Exists { label } => write!(f, "{label}"),
            Self::Node { node } => write!(f, "node={node}"),
        }
    }
}

/// Mount of a directory into a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Absolute path inside the task.
    pub target: String,
    /// Source of the mount.
    pub source: MountSource,
    /// Whether the mount is read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// Source of a [`Mount`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MountSource {
    /// A directory or file of the node; the agent must allow its path.
    Host {
        /// Absolute path on the node.
        path: String,
    },
    /// A named volume of the engine, created when it is missing.
    Volume {
        /// Name of the volume.
        name: String,
    },
    /// Memory that is discarded with the attempt.
    Tmpfs {
        /// Size in bytes.
        size_bytes: u64,
    },
}

impl MountSource {
    /// Path or name in it, if there is one.
    pub(super) fn text(&self) -> Option<&String> {
        match self {
            Self::Host { path } => Some(path),
            Self::Volume { name } => Some(name),
            Self::Tmpfs { .. } => None,
        }
    }
}

/// Command that is run inside a running task periodically; exit code 0 means healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Pause from the end of one check to the start of the next.
    #[serde(rename = "interval_ms", with = "millis")]
    pub interval: Duration,
    /// Timeout of one check; a check that takes longer has failed.
    #[serde(rename = "timeout_ms", with = "millis")]
    pub timeout: Duration,
    /// Period after the start in which failures do not count.
    #[serde(rename = "start_period_ms", with = "millis")]
    pub start_period: Duration,
    /// Consecutive failures that make the attempt fail.
    pub retries: NonZeroU32,
}

/// Signal and grace period of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopPolicy {
    /// Signal sent first.
    pub signal: StopSignal,
    /// Grace period before the task is killed.
    #[serde(rename = "grace_ms", with = "millis")]
    pub grace: Duration,
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self { signal: StopSignal::Term, grace: Duration::from_secs(10) }
    }
}

/// Signals that may be sent to stop a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum StopSignal {
    /// SIGTERM, the default.
    #[default]
    #[serde(rename = "SIGTERM")]
    Term,
    /// SIGINT, as Ctrl-C sends it.
    #[serde(rename = "SIGINT")]
    Int,
    /// SIGQUIT: graceful stop of some servers (nginx), core dump of other programs.
    #[serde(rename = "SIGQUIT")]
    Quit,
    /// SIGHUP, as of a closed terminal.
    #[serde(rename = "SIGHUP")]
    Hup,
    /// SIGUSR1, interpreted by the program.
    #[serde(rename = "SIGUSR1")]
    Usr1,
    /// SIGUSR2, interpreted by the program.
    #[serde(rename = "SIGUSR2")]
    Usr2,
    /// SIGKILL, without a graceful stop.
    #[serde(rename = "SIGKILL")]
    Kill,
    /// SIGWINCH: graceful stop of some servers (Apache).
    #[serde(rename = "SIGWINCH")]
    Winch,
}

impl StopSignal {
    /// Name as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Int => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Hup => "SIGHUP",
            Self::Usr1 => "SIGUSR1",
            Self::Usr2 => "SIGUSR2",
            Self::Kill => "SIGKILL",
            Self::Winch => "SIGWINCH",
        }
    }
}

/// Reference to a secret that the agent resolves by name when it starts an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// Name of the secret in the agent's secret store.
    pub name: String,
    /// Environment variable or file that receives the value.
    pub target: SecretTarget,
}

/// Environment variable or file that receives the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretTarget {
    /// An environment variable of the task.
    Env {
        /// Name of the variable.
        variable: String,
    },
    /// A file that only the task's user can read, in memory where the runtime supports it.
    File {
        /// Absolute path inside the task.
        path: String,
    },
}

impl SecretTarget {
    /// Variable or path in it.
    pub(super) fn text(&self) -> &String {
        match self {
            Self::Env { variable } => variable,
            Self::File { path } => path,
        }
    }
}

/// Ed25519 signature of the submitter over the SHA-256 of the spec's canonical JSON without this field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitterSignature {
    /// Digest that was signed, in hexadecimal.
    pub payload_sha256: String,
    /// Public key of the submitter, 32 bytes in hexadecimal.
    pub public_key: String,
    /// Signature, 64 bytes in hexadecimal.
    pub signature: String,
}

impl TaskSpec {
    /// Task that runs a container of `image`.
    #[must_use]
    pub fn image(name: impl Into<String>, image: impl Into<String>) -> Self {
        Self::new(
            name.into(),
            Workload::Image {
                image: image.into(),
                command: Vec::new(),
                pull: PullPolicy::default(),
                registry_credentials: None,
            },
        )
    }

    /// Task that runs `program` as a process of the node's operating system.
    #[must_use]
    pub fn program(name: impl Into<String>, program: impl Into<String>) -> Self {
        Self::new(name.into(), Workload::Program { program: program.into() })
    }

    fn new(name: String, workload: Workload) -> Self {
        Self {
            name,
            namespace: Namespace::default(),
            workload,
            args: Vec::new(),
            env: BTreeMap::new(),
            working_dir: None,
            resources: Resources::default(),
            priority: 0,
            timeouts: Timeouts::default(),
            restart: RestartPolicy::default(),
            retry: RetryPolicy::default(),
            node_loss: None,
            constraints: Vec::new(),
            isolation: SpareIsolation::default(),
            mounts: Vec::new(),
            health: None,
            stop: StopPolicy::default(),
            output_limit_bytes: default_output_limit(),
            secrets: Vec::new(),
            labels: BTreeMap::new(),
            signature: None,
        }
    }

    /// Replaces the image's entry point. Has no effect on a program, which is its own entry point.
    #[must_use]
    pub fn command<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        if let Workload::Image { command, .. } = &mut self.workload {
            *command = words.into_iter().map(Into::into).collect();
        }
        self
    }

    /// Sets the arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Requests cpu, in thousandths of a core.
    #[must_use]
    pub fn cpu_millis(mut self, cpu_millis: u64) -> Self {
        self.resources.cpu_millis = cpu_millis;
        self
    }

    /// Requests memory, in units of 2^20 bytes.
    #[must_use]
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.resources.memory_bytes = mib.saturating_mul(1 << 20);
        self
    }

    /// Sets all requested resources.
    #[must_use]
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Sets the scheduling priority; higher goes first.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Limits the attempts to `max_attempts`; zero counts as one.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.retry.max_attempts = NonZeroU32::new(max_attempts).unwrap_or(NonZeroU32::MIN);
        self
    }

    /// Sets the delay after the first failure; see [`RetryPolicy`].
    #[must_use]
    pub fn backoff(mut self, first: Duration) -> Self {
        self.retry.backoff = first;
        self
    }

    /// Sets the ends of an attempt that lead to another one.
    #[must_use]
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = policy;
        self
    }

    /// Limits the run time of each attempt.
    #[must_use]
    pub fn run_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.run = Some(limit);
        self
    }

    /// Limits the time that the task waits for a placement.
    #[must_use]
    pub fn queue_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.queue = Some(limit);
        self
    }

    /// Limits the time from submission to the end, all attempts together.
    #[must_use]
    pub fn total_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.total = Some(limit);
        self
    }

    /// Requires a node whose `label` has this `value`.
    #[must_use]
    pub fn on_label(mut self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.constraints.push(Constraint::Equals { label: label.into(), value: value.into() });
        self
    }

    /// Applies the isolation of [`Isolation::hardened`].
    #[must_use]
    pub fn hardened(mut self) -> Self {
        *self.isolation = Isolation::hardened();
        self
    }

    /// Sets the grace period between the stop signal and the kill.
    #[must_use]
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop.grace = grace;
        self
    }

    /// Sets one label that the cluster does not interpret.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Policy for the loss of the task's node.
    #[must_use]
    pub fn node_loss_policy(&self) -> NodeLossPolicy {
        self.node_loss.as_deref().copied().unwrap_or_default()
    }

    /// Least demanding kind of work that a node must accept to run this task.
    #[must_use]
    pub fn kind(&self) -> WorkKind {
        match &self.workload {
            Workload::Program { .. } => WorkKind::Program,
            Workload::Image { command, .. } if command.is_empty() && self.has_no_wishes() => {
                WorkKind::PlainImage
            }
            Workload::Image { .. } => WorkKind::Image,
        }
    }

    /// True of a spec without any setting that an executor which takes nothing but an image would ignore.
    fn has_no_wishes(&self) -> bool {
        self.args.is_empty()
            && self.working_dir.is_none()
            && self.mounts.is_empty()
            && self.secrets.is_empty()
            && self.health.is_none()
            && self.resources.devices.is_empty()
            && self.resources.ports.is_empty()
            && *self.isolation == Isolation::default()
    }

    /// SHA-256 of the spec's JSON without its signature: the payload of a signature. Field order is that of
    /// the struct and maps are sorted, so that equal specs have equal digests.
    ///
    /// # Panics
    /// Never: a spec always has a JSON form.
    #[must_use]
    pub fn payload_digest(&self) -> [u8; 32] {
        let mut unsigned = self.clone();
        unsigned.signature = None;
        let json = serde_json::to_vec(&unsigned).expect("plain data has a JSON form");
        Sha256::digest(json).into()
    }
}

const OUTPUT_LIMIT: u64 = 1 << 20;

fn default_output_limit() -> u64 {
    OUTPUT_LIMIT
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_default_output_limit(value: &u64) -> bool {
    *value == OUTPUT_LIMIT
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TaskId;

    #[test]
    fn signals_are_named_as_everywhere_and_others_are_refused() {
        use StopSignal::*;
        for signal in [Term, Int, Quit, Hup, Usr1, Usr2, Kill, Winch] {
            assert_eq!(serde_json::to_value(signal).unwrap(), signal.name());
        }
        let error = serde_json::from_str::<StopPolicy>(r#"{"signal":"TERM"}"#).unwrap_err().to_string();
        assert!(error.contains("`TERM`") && error.contains("`SIGTERM`"), "{error}");
    }

    #[test]
    fn isolation_that_is_the_default_takes_no_memory_and_no_json() {
        let mut spec = TaskSpec::program("a", "b");
        let plain = spec.clone();
        spec.isolation.user = Some("x".into());
        assert_ne!(spec, plain);
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<TaskSpec>(&json).unwrap(), spec);
        spec.isolation.user = None;
        assert_eq!(spec, plain);
        assert_eq!(serde_json::to_string(&spec).unwrap(), serde_json::to_string(&plain).unwrap());
        assert!(size_of::<TaskSpec>() <= 512, "{}", size_of::<TaskSpec>());
    }

    #[test]
    fn the_smallest_json_is_a_name_and_a_workload() {
        let spec = TaskSpec::image("web", "nginx");
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(json, r#"{"name":"web","workload":{"kind":"image","image":"nginx"}}"#);
        assert_eq!(serde_json::from_str::<TaskSpec>(&json).unwrap(), spec);
    }

    #[test]
    fn a_full_spec_survives_json() {
        let mut spec = TaskSpec::image("a", "b").command(["c"]).args(["d"]).env("E", "f").hardened();
        spec.resources = Resources::new(1, 2).device("gpu", 3).port(80);
        spec.timeouts = Timeouts {
            queue: Some(Duration::from_millis(1)),
            run: Some(Duration::from_millis(2)),
            total: Some(Duration::from_millis(3)),
        };
        spec = spec.max_attempts(4).restart(RestartPolicy::Always).priority(-5).on_label("zone", "x");
        spec.mounts.push(Mount {
            target: "/t".into(),
            source: MountSource::Tmpfs { size_bytes: 1 },
            read_only: true,
        });
        spec.secrets.push(SecretRef { name: "s".into(), target: SecretTarget::Env { variable: "S".into() } });
        spec.health = Some(Box::new(HealthCheck {
            command: vec!["true".into()],
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            start_period: Duration::ZERO,
            retries: NonZeroU32::MIN,
        }));
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<TaskSpec>(&json).unwrap(), spec);
    }

    #[test]
    fn what_asks_for_more_than_an_image_needs_more_than_a_plain_worker() {
        let plain = TaskSpec::image("a", "b").cpu_millis(1).memory_mib(1).env("C", "d");
        let (old, new) = (BTreeSet::from([WorkKind::PlainImage]), BTreeSet::from([WorkKind::Image]));
        assert!(plain.kind().is_taken_by(&old) && plain.kind().is_taken_by(&new));
        for more in [plain.clone().args(["x"]), plain.clone().command(["x"]), plain.hardened()] {
            assert!(!more.kind().is_taken_by(&old) && more.kind().is_taken_by(&new));
        }
        assert!(!TaskSpec::program("a", "b").kind().is_taken_by(&new));
    }

    #[test]
    fn a_misspelt_field_is_refused_by_name() {
        let text = r#"{"name":"a","workload":{"kind":"program","program":"b"},"priorty":1}"#;
        let error = serde_json::from_str::<TaskSpec>(text).unwrap_err().to_string();
        assert!(error.contains("priorty"), "{error}");
    }

    #[test]
    fn backoff_doubles_up_to_its_bound_and_never_differs_between_replicas() {
        let retry = RetryPolicy {
            max_attempts: NonZeroU32::MAX,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        };
        let task = TaskId::from_bytes([7; 16]);
        for failures in 1..100u32 {
            let attempt = AttemptId { task, attempt: NonZeroU32::new(failures).unwrap() };
            let full = Duration::from_secs(1u64 << (failures - 1).min(6)).min(retry.backoff_max);
            let delay = retry.delay(attempt, failures);
            assert!(delay <= full && delay >= full * 3 / 4, "{failures}: {delay:?} of {full:?}");
            assert_eq!(delay, retry.delay(attempt, failures));
        }
    }
}
