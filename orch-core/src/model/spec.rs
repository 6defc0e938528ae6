//! What somebody wants run: [`TaskSpec`] and its parts.
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

/// One unit of work, immutable once it is submitted. Every field but `name` and `workload` has a default and
/// is left out of the JSON when it holds it. Unknown fields are refused, so that a misspelt limit is never
/// ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// What people call it. Need not be unique; ids are.
    pub name: String,
    /// Whose task it is.
    #[serde(default, skip_serializing_if = "Namespace::is_default")]
    pub namespace: Namespace,
    /// What is run.
    pub workload: Workload,
    /// Arguments of the program, or of the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables. Not for secrets: everybody who may read the task reads these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Directory to start in; the image's or the agent's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// What the task holds of its node while it is placed there, and its limits while it runs.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Higher goes first among the pending.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// How long each stage may take.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: Timeouts,
    /// Which ends of an attempt lead to another one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart: RestartPolicy,
    /// How many attempts there are and how far apart.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retry: RetryPolicy,
    /// What follows when its node is lost; see [`TaskSpec::node_loss_policy`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_loss: Option<Box<NodeLossPolicy>>,
    /// Which nodes may run it; all of them must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// How far it is kept apart from its node.
    #[serde(default, skip_serializing_if = "is_default")]
    pub isolation: SpareIsolation,
    /// Directories of the node or in memory that it sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// How to tell that it is well while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Box<HealthCheck>>,
    /// How it is asked to stop.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stop: StopPolicy,
    /// How many bytes of output are kept, both streams together; the newest win.
    #[serde(default = "default_output_limit", skip_serializing_if = "is_default_output_limit")]
    pub output_limit_bytes: u64,
    /// Secrets it gets, by reference. Values never pass through the cluster's state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretRef>,
    /// Free words for people and programs; the cluster does not read them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who asked for exactly this, if they signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Box<SubmitterSignature>>,
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Workload {
    /// A container of an image.
    Image {
        /// The image's reference: `busybox:1.36`, `registry.example/app@sha256:...`.
        image: String,
        /// Replaces the image's entry point.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        command: Vec<String>,
        /// When the image is fetched.
        #[serde(default, skip_serializing_if = "is_default")]
        pull: PullPolicy,
        /// Name of the registry login that the agent holds for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        registry_credentials: Option<String>,
    },
    /// A process of the node's operating system.
    Program {
        /// A path, or a name that the agent's `PATH` finds.
        program: String,
    },
}

/// The kinds of work that runtimes differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// Containers of images as they are, with nothing asked for that a worker which only starts images would
    /// pass over (a command, arguments, mounts, ...). All that workers of older systems know.
    PlainImage,
    /// Containers of images.
    Image,
    /// Processes of the operating system.
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
    /// Whether a node that takes these kinds takes work of this kind.
    #[must_use]
    pub fn is_taken_by(self, kinds: &BTreeSet<Self>) -> bool {
        kinds.contains(&self) || (self == Self::PlainImage && kinds.contains(&Self::Image))
    }
}

/// When an image is fetched from its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// When the node does not have it.
    #[default]
    IfMissing,
    /// Before every attempt.
    Always,
    /// Never: an image that the node lacks is an error.
    Never,
}

/// How long each stage may take; no limit where absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// From submission (or the end of the attempt before) to a placement.
    #[serde(rename = "queue_ms", with = "opt_millis", skip_serializing_if = "Option::is_none")]
    pub queue: Option<Duration>,
    /// From the start of the work to its end, each attempt anew.
    #[serde(rename = "run_ms", with = "opt_millis", skip_serializing_if = "Option::is_none")]
    pub run: Option<Duration>,
    /// From submission to the end, all attempts together.
    #[serde(rename = "total_ms", with = "opt_millis", skip_serializing_if = "Option::is_none")]
    pub total: Option<Duration>,
}

/// Which ends of an attempt lead to another attempt. Attempts that ended through no fault of the task (lost
/// node, drain) do not count against [`RetryPolicy::max_attempts`]; lost nodes have a bound of their own
/// ([`ClusterConfig::node_losses_max`](crate::state::ClusterConfig::node_losses_max)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Failures and run timeouts, as often as [`RetryPolicy::max_attempts`] says.
    #[default]
    OnFailure,
    /// All of them, success as well and without end: for work that should go on for ever.
    Always,
    /// None, not even a lost node's: for work that must not be started a second time.
    Never,
}

/// How many attempts a task gets and how far apart they are: the delay starts at `backoff`, doubles with each
/// failure up to `backoff_max`, and up to a quarter of it is taken off by a jitter that depends on the
/// attempt alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Failures that end the task. One means: no retry.
    pub max_attempts: NonZeroU32,
    /// Delay after the first failure.
    #[serde(rename = "backoff_ms", with = "millis")]
    pub backoff: Duration,
    /// The longest delay.
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
    /// How long to wait after the failure number `failures` (from 1) of a task. The same answer on every
    /// replica: the jitter is drawn from the attempt's id, not from a random source.
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

/// A condition on a node's labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Constraint {
    /// The label has this value.
    Equals {
        /// The label.
        label: String,
        /// The value it must have.
        value: String,
    },
    /// The label is absent or has another value.
    NotEquals {
        /// The label.
        label: String,
        /// The value it must not have.
        value: String,
    },
    /// The label is there, whatever its value.
    Exists {
        /// The label.
        label: String,
    },
    /// The node is this one.
    Node {
        /// The node's id.
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

/// A directory that a task sees at a place of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where the task sees it; an absolute path.
    pub target: String,
    /// What it sees there.
    pub source: MountSource,
    /// It cannot write there.
    #[serde(default)]
    pub read_only: bool,
}

/// What a [`Mount`] shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MountSource {
    /// A directory or file of the node; the agent must allow it.
    Host {
        /// Its absolute path.
        path: String,
    },
    /// A named volume of the engine, made when it is missing.
    Volume {
        /// Its name.
        name: String,
    },
    /// Memory that is gone with the attempt.
    Tmpfs {
        /// Its size.
        size_bytes: u64,
    },
}

impl MountSource {
    /// The path or name in it, if there is one.
    pub(super) fn text(&self) -> Option<&String> {
        match self {
            Self::Host { path } => Some(path),
            Self::Volume { name } => Some(name),
            Self::Tmpfs { .. } => None,
        }
    }
}

/// A command that is run inside a running task, again and again; exit code 0 means well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Program and arguments.
    pub command: Vec<String>,
    /// From the end of one check to the start of the next.
    #[serde(rename = "interval_ms", with = "millis")]
    pub interval: Duration,
    /// A check that takes longer has failed.
    #[serde(rename = "timeout_ms", with = "millis")]
    pub timeout: Duration,
    /// Failures in this time after the start do not count.
    #[serde(rename = "start_period_ms", with = "millis")]
    pub start_period: Duration,
    /// Failures in a row that make the attempt fail.
    pub retries: NonZeroU32,
}

/// How a task is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopPolicy {
    /// The signal that asks.
    pub signal: StopSignal,
    /// How long it has before it is killed.
    #[serde(rename = "grace_ms", with = "millis")]
    pub grace: Duration,
}

impl Default for StopPolicy {
    fn default() -> Self {
        Self { signal: StopSignal::Term, grace: Duration::from_secs(10) }
    }
}

/// The signals that may ask a task to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum StopSignal {
    /// The usual one.
    #[default]
    #[serde(rename = "SIGTERM")]
    Term,
    /// As Ctrl-C.
    #[serde(rename = "SIGINT")]
    Int,
    /// For a graceful end of some servers (nginx), for a dump of others.
    #[serde(rename = "SIGQUIT")]
    Quit,
    /// As of a terminal that was closed.
    #[serde(rename = "SIGHUP")]
    Hup,
    /// What the program makes of it.
    #[serde(rename = "SIGUSR1")]
    Usr1,
    /// What the program makes of it.
    #[serde(rename = "SIGUSR2")]
    Usr2,
    /// Does not ask.
    #[serde(rename = "SIGKILL")]
    Kill,
    /// For a graceful end of some servers (Apache).
    #[serde(rename = "SIGWINCH")]
    Winch,
}

impl StopSignal {
    /// The name, as in JSON.
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

/// A secret that the agent looks up by name when it starts an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// Its name with the agent.
    pub name: String,
    /// Where the task finds the value.
    pub target: SecretTarget,
}

/// Where a task finds the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretTarget {
    /// An environment variable.
    Env {
        /// Its name.
        variable: String,
    },
    /// A file that only the task's user can read, in memory where the runtime can.
    File {
        /// Its absolute path inside the task.
        path: String,
    },
}

impl SecretTarget {
    /// The variable or path in it.
    pub(super) fn text(&self) -> &String {
        match self {
            Self::Env { variable } => variable,
            Self::File { path } => path,
        }
    }
}

/// An Ed25519 signature of the submitter over the SHA-256 of the spec's canonical JSON without this field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitterSignature {
    /// The digest that was signed, in hexadecimal.
    pub payload_sha256: String,
    /// The submitter's public key, 32 bytes in hexadecimal.
    pub public_key: String,
    /// The signature, 64 bytes in hexadecimal.
    pub signature: String,
}

impl TaskSpec {
    /// A task that runs a container of `image`.
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

    /// A task that runs a `program` of the node's operating system.
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

    /// Replaces the image's entry point. Does nothing for a program, which is its own entry point.
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

    /// Asks for thousandths of a core.
    #[must_use]
    pub fn cpu_millis(mut self, cpu_millis: u64) -> Self {
        self.resources.cpu_millis = cpu_millis;
        self
    }

    /// Asks for memory, in units of 2^20 bytes.
    #[must_use]
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.resources.memory_bytes = mib.saturating_mul(1 << 20);
        self
    }

    /// Sets everything it holds of its node.
    #[must_use]
    pub fn resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// Higher goes first.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Tries at most `max_attempts` times; zero counts as one.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: u32) -> Self {
        self.retry.max_attempts = NonZeroU32::new(max_attempts).unwrap_or(NonZeroU32::MIN);
        self
    }

    /// Delay after the first failure; see [`RetryPolicy`].
    #[must_use]
    pub fn backoff(mut self, first: Duration) -> Self {
        self.retry.backoff = first;
        self
    }

    /// Which ends lead to another attempt.
    #[must_use]
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = policy;
        self
    }

    /// How long an attempt may run.
    #[must_use]
    pub fn run_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.run = Some(limit);
        self
    }

    /// How long it may wait for a node.
    #[must_use]
    pub fn queue_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.queue = Some(limit);
        self
    }

    /// How long everything together may take.
    #[must_use]
    pub fn total_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.total = Some(limit);
        self
    }

    /// Runs only on nodes whose `label` has this `value`.
    #[must_use]
    pub fn on_label(mut self, label: impl Into<String>, value: impl Into<String>) -> Self {
        self.constraints.push(Constraint::Equals { label: label.into(), value: value.into() });
        self
    }

    /// Keeps it apart from its node as far as [`Isolation::hardened`] does.
    #[must_use]
    pub fn hardened(mut self) -> Self {
        *self.isolation = Isolation::hardened();
        self
    }

    /// How long it has to stop before it is killed.
    #[must_use]
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop.grace = grace;
        self
    }

    /// Sets one free label.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// What follows when its node is lost.
    #[must_use]
    pub fn node_loss_policy(&self) -> NodeLossPolicy {
        self.node_loss.as_deref().copied().unwrap_or_default()
    }

    /// The least that a node must be able to run to run this.
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

    /// Nothing is asked for that a worker which only starts images would pass over.
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

    /// SHA-256 of the spec's JSON without its signature: what submitters sign. Field order is that of the
    /// struct and maps are sorted, so that equal specs have equal digests.
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
