//! Policy of a task for the loss of its node.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::millis;

/// What follows when the node of an attempt is lost. Whatever it says, an attempt that is heard of again
/// before another took its place goes on, and its result counts. (Compare the `disconnect` block of Nomad's
/// job specification.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeLossPolicy {
    /// How long a lost node may take to come back before another attempt is due. Zero: not at all.
    #[serde(rename = "wait_ms", with = "millis")]
    pub wait: Duration,
    /// Whether another attempt takes its place. Without that the task waits for its node until that is back,
    /// or removed from the cluster.
    pub replace: bool,
    /// Which attempt goes on when the node is back and another one has taken its place.
    pub keep: KeptAttempt,
}

impl Default for NodeLossPolicy {
    fn default() -> Self {
        Self { wait: Duration::ZERO, replace: true, keep: KeptAttempt::Replacement }
    }
}

/// Which of two attempts of one task goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptAttempt {
    /// The newer one. Attempt numbers then only grow, so that they fence writes to other systems.
    #[default]
    Replacement,
    /// The older one, with what it has done so far. The newer one is stopped.
    Original,
}
