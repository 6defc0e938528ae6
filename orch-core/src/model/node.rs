//! Machines, as the cluster knows them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{InstanceId, NodeId, Resources, Timestamp, WorkKind};

/// What a node says about itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Its name.
    pub id: NodeId,
    /// The life of the agent's data; a second agent with the same name has another one.
    pub instance: InstanceId,
    /// What it has to give.
    pub capacity: Resources,
    /// Which kinds of work its runtime takes.
    pub kinds: BTreeSet<WorkKind>,
    /// How many tasks it takes at a time, whatever they ask for.
    #[serde(default = "default_max_tasks")]
    pub max_tasks: u32,
    /// Words that constraints ask for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

const fn default_max_tasks() -> u32 {
    NodeSpec::DEFAULT_MAX_TASKS
}

impl NodeSpec {
    /// How many tasks a node takes at a time unless it says otherwise.
    pub const DEFAULT_MAX_TASKS: u32 = 1024;
    /// How many it may take at the most: losing the node changes all of them at once.
    pub const MOST_TASKS: u32 = 10_000;
}

/// A node as every replica knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// What it said about itself.
    pub spec: NodeSpec,
    /// Whether it is there.
    pub state: NodeState,
    /// Whether it takes new work.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// When it joined, or came back. Later with each registration of this node, so it also names the registration.
    pub registered_at: Timestamp,
    /// Members that have not heard from it, until they are enough to call it lost.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub suspected_by: BTreeSet<String>,
}

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It is heard from.
    Ready,
    /// Enough members have not heard from it. Its attempts have ended; it may come back.
    Lost,
}

/// Whether a node takes new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Scheduling {
    /// It does.
    #[default]
    Open,
    /// It keeps what it has and takes nothing new.
    Cordoned,
    /// It gives up what it has: attempts still there at `evict_at` are stopped and tried elsewhere.
    Draining {
        /// When patience ends.
        evict_at: Timestamp,
    },
}

impl NodeRecord {
    /// Whether new work may be placed here.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == NodeState::Ready && self.scheduling == Scheduling::Open
    }
}
