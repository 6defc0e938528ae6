//! [`EngineConfig`]: behaviour of an engine in one process. Unlike
//! [`ClusterConfig`](crate::state::ClusterConfig), it may differ between the members of a cluster.

use std::time::Duration;

/// Times and bounds of an [`Orchestrator`](super::Orchestrator).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Interval of agents' heartbeats. One that was not heard says it again after half of it.
    pub heartbeat_interval: Duration,
    /// A node that was silent for so long is suspected. Several intervals: one lost message is no death.
    pub node_timeout: Duration,
    /// Time that an agent's question for assignments waits for news; shorter than agents elsewhere wait for
    /// the answer, which over HTTP is `Timeouts::assignments`.
    pub assignments_wait: Duration,
    /// Events that are kept for streams that resume.
    pub events_kept: usize,
    /// Changes that are kept for each node's agent; one that missed more gets everything.
    pub changes_kept: usize,
    /// Bytes of output of all tasks together where [`Builder::output`](super::Builder::output) is not given;
    /// the attempts that wrote first are forgotten first.
    pub output_bytes_max: u64,
    /// Time for which output that cannot be kept, because a disk is full for example, is sent again by its
    /// agent and holds up the ends of its attempts. Then it is given up, and readers are told
    /// ([`OutputChunk::lost`](super::OutputChunk::lost)). Shorter than `report_slack_ms` of the
    /// [`ClusterConfig`](crate::state::ClusterConfig), after which an attempt with a time limit is over
    /// without its report.
    pub output_grace: Duration,
    /// Time that a shutdown waits for what runs in this process.
    pub shutdown_grace: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(1500),
            node_timeout: Duration::from_secs(6),
            assignments_wait: Duration::from_secs(20),
            events_kept: 65_536,
            changes_kept: 4096,
            output_bytes_max: 256 << 20,
            output_grace: Duration::from_secs(15),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

impl EngineConfig {
    /// Checks the fields against each other.
    ///
    /// # Errors
    /// Says which relation does not hold.
    pub fn validate(&self) -> Result<(), String> {
        if self.heartbeat_interval < Duration::from_millis(1) {
            return Err("heartbeat_interval must be at least a millisecond".into());
        }
        if self.node_timeout < self.heartbeat_interval * 2 {
            return Err(
                "node_timeout must be at least twice heartbeat_interval, or one late heartbeat loses a node"
                    .into(),
            );
        }
        Ok(())
    }
}
