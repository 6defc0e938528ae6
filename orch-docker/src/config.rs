//! [`DockerConfig`]: whose containers, which engine, and what tasks may ask of this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

/// How a [`DockerRuntime`](crate::DockerRuntime) works. [`DockerConfig::new`] grants tasks nothing of the
/// node beyond what a container always has; everything else is allowed field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerConfig {
    /// The engine: `unix:///var/run/docker.sock`, or `tcp://host:port` with the feature `tcp`. When absent,
    /// the variable `DOCKER_HOST` decides, and without it the usual socket.
    pub host: Option<String>,
    /// Name of the cluster that the containers belong to.
    pub cluster: String,
    /// Who of the cluster made them: one agent's instance. Must survive restarts of the agent, which finds
    /// its containers by it, and differ between agents that share an engine.
    pub owner: String,
    /// What the names of containers begin with.
    pub name_prefix: String,
    /// The most starts at a time. An engine is busy with 4 to 8; more only wait inside it.
    pub starts_in_flight: NonZeroUsize,
    /// The most images that are pulled at a time.
    pub pulls_in_flight: NonZeroUsize,
    /// How long the engine may take to answer a question before it counts as gone.
    pub request_timeout: Duration,
    /// How long it may take to create, start, kill or remove one container.
    pub start_timeout: Duration,
    /// How long a pull may go without any progress.
    pub pull_stall_timeout: Duration,
    /// Interval in which an engine that has nothing to tell is asked whether it still lives, while somebody
    /// waits for it, and how long it may take to answer that.
    pub probe_interval: Duration,
    /// Where the files of secrets are kept while their attempts exist; made when missing, with mode 0700.
    /// Must be in a file system that the engine sees at the same path; best one in memory.
    pub secrets_dir: PathBuf,
    /// Where the runtime notes how far output had come, so that the next life of the agent counts on from
    /// there; made when missing, with mode 0700.
    pub state_dir: PathBuf,
    /// Directories of the node that tasks may mount, each with everything below it. Symbolic links are
    /// followed before the check.
    pub allowed_host_paths: Vec<PathBuf>,
    /// Tasks may use the node's own network.
    pub allow_host_network: bool,
    /// Networks of the engine that tasks may name.
    pub allowed_networks: BTreeSet<String>,
    /// Capabilities that tasks may add beyond the engine's default set, without `CAP_`.
    pub allowed_capabilities: BTreeSet<String>,
    /// The device files behind each kind of device that tasks may ask for. A task that asks for at least one
    /// gets all files of that kind. `gpu` needs no entry: the engine picks that many.
    pub devices: BTreeMap<String, Vec<PathBuf>>,
    /// The address of the node at which tasks' ports are published; every address when absent.
    pub publish_address: Option<IpAddr>,
    /// The health check that is built into an image counts for tasks whose spec has none of its own. Without,
    /// such tasks are not checked.
    pub image_health_checks: bool,
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl DockerConfig {
    /// The defaults for the containers of `owner` in `cluster`.
    #[must_use]
    pub fn new(cluster: impl Into<String>, owner: impl Into<String>) -> Self {
        Self {
            host: None,
            cluster: cluster.into(),
            owner: owner.into(),
            name_prefix: "orch".into(),
            starts_in_flight: const { NonZeroUsize::new(8).expect("not zero") },
            pulls_in_flight: const { NonZeroUsize::new(3).expect("not zero") },
            request_timeout: Duration::from_secs(10),
            start_timeout: Duration::from_secs(60),
            pull_stall_timeout: Duration::from_secs(120),
            probe_interval: Duration::from_secs(5),
            secrets_dir: run_dir("orch-docker-secrets"),
            state_dir: run_dir("orch-docker-state"),
            allowed_host_paths: Vec::new(),
            allow_host_network: false,
            allowed_networks: BTreeSet::new(),
            allowed_capabilities: BTreeSet::new(),
            devices: BTreeMap::new(),
            publish_address: None,
            image_health_checks: true,
        }
    }

    /// Checks each field and how they fit together.
    ///
    /// # Errors
    /// The first field that cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |field, problem: &str| Err(ConfigError { field, problem: problem.into() });
        if self.cluster.is_empty() {
            return refuse("cluster", "is empty");
        }
        if self.owner.is_empty() {
            return refuse("owner", "is empty");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !self.name_prefix.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !self.name_prefix.chars().all(plain)
        {
            return refuse(
                "name_prefix",
                "must be letters, digits, '_', '.' and '-', beginning with a letter or digit",
            );
        }
        for (field, duration) in [
            ("request_timeout", self.request_timeout),
            ("start_timeout", self.start_timeout),
            ("pull_stall_timeout", self.pull_stall_timeout),
            ("probe_interval", self.probe_interval),
        ] {
            if duration.is_zero() {
                return refuse(field, "is zero");
            }
        }
        if !self.secrets_dir.is_absolute() {
            return refuse("secrets_dir", "must be an absolute path");
        }
        match self.allowed_host_paths.iter().all(|path| path.is_absolute()) {
            true => Ok(()),
            false => refuse("allowed_host_paths", "must be absolute paths"),
        }
    }
}

/// In memory where the system has a place for that: the user's own runtime directory, else the machine's.
fn run_dir(name: &str) -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(|| PathBuf::from("/run"), PathBuf::from);
    base.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_grant_nothing() {
        let config = DockerConfig::new("c", "o");
        assert_eq!(config.validate(), Ok(()));
        assert!(config.allowed_host_paths.is_empty() && !config.allow_host_network);
    }

    #[test]
    fn the_first_bad_field_is_named() {
        let mut config = DockerConfig::new("c", "o");
        config.name_prefix = "-x".into();
        assert_eq!(config.validate().unwrap_err().field, "name_prefix");
        let mut config = DockerConfig::new("c", "o");
        config.probe_interval = Duration::ZERO;
        assert_eq!(config.validate().unwrap_err().to_string(), "probe_interval: is zero");
        assert_eq!(DockerConfig::new("", "o").validate().unwrap_err().field, "cluster");
    }
}
