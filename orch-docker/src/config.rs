//! [`DockerConfig`]: owner of the containers, address and timeouts of the engine, and permissions of tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

/// Configuration of a [`DockerRuntime`](crate::DockerRuntime). [`DockerConfig::new`] grants tasks no access
/// to the node beyond the default of a container; everything else is allowed field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerConfig {
    /// Address of the engine: `unix:///var/run/docker.sock`, or `tcp://host:port` with the feature `tcp`.
    /// When absent, the variable `DOCKER_HOST` decides, and without it the default socket is used.
    pub host: Option<String>,
    /// Name of the cluster that the containers belong to.
    pub cluster: String,
    /// Owner of the containers within the cluster: one agent's instance. Must survive restarts of the agent,
    /// which finds its containers by it, and differ between agents that share an engine.
    pub owner: String,
    /// Prefix of the names of containers.
    pub name_prefix: String,
    /// Maximum number of concurrent starts. An engine is busy with 4 to 8; more only wait inside it.
    pub starts_in_flight: NonZeroUsize,
    /// Maximum number of images that are pulled at a time.
    pub pulls_in_flight: NonZeroUsize,
    /// Timeout of a request that reads the state of the engine, after which it counts as unreachable.
    pub request_timeout: Duration,
    /// Timeout of creating, starting, killing or removing one container.
    pub start_timeout: Duration,
    /// Maximum time without progress of a pull.
    pub pull_stall_timeout: Duration,
    /// Interval in which a silent engine is probed while a call waits for it, and timeout of such a probe.
    pub probe_interval: Duration,
    /// Directory of the files of secrets while their attempts exist; created when missing, with mode 0700.
    /// Must be in a file system that the engine sees at the same path; preferably one in memory.
    pub secrets_dir: PathBuf,
    /// Directory of stored log offsets, from which the next incarnation of the agent counts on; created when
    /// missing, with mode 0700.
    pub state_dir: PathBuf,
    /// Directories of the node that tasks may mount, each including everything below it. Symbolic links are
    /// resolved before the check.
    pub allowed_host_paths: Vec<PathBuf>,
    /// Whether tasks may use the node's own network.
    pub allow_host_network: bool,
    /// Networks of the engine that tasks may use.
    pub allowed_networks: BTreeSet<String>,
    /// Capabilities that tasks may add beyond the engine's default set, without `CAP_`.
    pub allowed_capabilities: BTreeSet<String>,
    /// Device files of each kind of device that tasks may request. A task that requests at least one gets all
    /// files of that kind. `gpu` needs no entry: the engine assigns that many.
    pub devices: BTreeMap<String, Vec<PathBuf>>,
    /// Address of the node at which tasks' ports are published; every address when absent.
    pub publish_address: Option<IpAddr>,
    /// Whether the health check that is built into an image applies to tasks whose spec has none of its own.
    /// Otherwise such tasks are not checked.
    pub image_health_checks: bool,
}

/// Error of an invalid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the field.
    pub field: &'static str,
    /// Description of the problem.
    pub problem: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl DockerConfig {
    /// Default configuration for the containers of `owner` in `cluster`.
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

    /// Checks each field and the relations between fields.
    ///
    /// # Errors
    /// The first field that is invalid.
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

/// Directory in memory where the system has one: the user's own runtime directory, else the machine's.
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
