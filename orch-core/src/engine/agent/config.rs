//! [`AgentConfig`].

use std::{sync::Arc, time::Duration};

use super::{
    capacity::local_capacity,
    secrets::{NoSecrets, SecretSource},
};
use crate::{
    environment::{Environment, System},
    model::{IdError, InstanceId, NodeId, NodeSpec, WorkKind},
};

/// Configuration of an agent.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Properties of the node. Its `instance` must be the same after a restart of the agent, so that the
    /// cluster lets it take over its own work, and another for every other agent.
    pub node: NodeSpec,
    /// Source of the values of secrets.
    pub secrets: Arc<dyn SecretSource>,
    /// Attempts that are started at a time.
    pub starts_in_flight: usize,
    /// Time for which observations are collected before they are sent.
    pub observe_every: Duration,
    /// Interval of usage observations; none where it is absent.
    pub usage_every: Option<Duration>,
    /// Clock, randomness and background work.
    pub environment: Arc<dyn Environment>,
}

impl AgentConfig {
    /// An agent for this machine, which offers all of it.
    ///
    /// # Errors
    /// When the name is no node id.
    pub fn local(node: impl AsRef<str>, kinds: impl IntoIterator<Item = WorkKind>) -> Result<Self, IdError> {
        let (id, instance) = (NodeId::new(node)?, InstanceId::generate());
        Ok(Self::new(NodeSpec::new(id, instance, local_capacity(), kinds)))
    }

    /// An agent for this node, with defaults for the rest.
    #[must_use]
    pub fn new(node: NodeSpec) -> Self {
        Self {
            node,
            secrets: Arc::new(NoSecrets),
            starts_in_flight: 8,
            observe_every: Duration::from_millis(50),
            usage_every: Some(Duration::from_secs(10)),
            environment: System::shared(),
        }
    }
}
