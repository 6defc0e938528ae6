//! Policy of a task for the loss of its node.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::millis;

/// Policy for attempts whose node is lost. In every case an attempt that is reported again before another one
/// replaced it continues, and its result counts. (Compare the `disconnect` block of Nomad's job
/// specification.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeLossPolicy {
    /// Grace period in which a lost node may return before a replacement is due. Zero: none.
    #[serde(rename = "wait_ms", with = "millis")]
    pub wait: Duration,
    /// Whether a replacement is started. Without one the task waits until its node returns or is removed from
    /// the cluster.
    pub replace: bool,
    /// Attempt that continues when the node returns after a replacement was placed.
    pub keep: KeptAttempt,
}

impl Default for NodeLossPolicy {
    fn default() -> Self {
        Self { wait: Duration::ZERO, replace: true, keep: KeptAttempt::Replacement }
    }
}

/// Choice between the two attempts of a task whose lost node returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptAttempt {
    /// The newer one. Attempt numbers then only grow, so that they can fence writes to other systems.
    #[default]
    Replacement,
    /// The older one, with its progress so far. The newer one is stopped.
    Original,
}
