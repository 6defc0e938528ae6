//! Nodes and their registrations.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{IncarnationId, InstanceId, NodeId, Resources, Timestamp, WorkKind};

/// Description that a node registers with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Id of the node, chosen by the operator.
    pub id: NodeId,
    /// Id of the agent's data directory; a second agent with the same node id has another one.
    pub instance: InstanceId,
    /// Resources that the node offers to tasks.
    pub capacity: Resources,
    /// Kinds of work that the node's runtime accepts.
    pub kinds: BTreeSet<WorkKind>,
    /// Maximum number of tasks placed at a time, whatever they request; at most [`NodeSpec::MOST_TASKS`].
    #[serde(default = "default_max_tasks")]
    pub max_tasks: u32,
    /// Labels that constraints are matched against.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Last error that keeps the node from accepting new work, as reported by its agent: a container engine
    /// that does not respond, for example.
    #[serde(default, alias = "trouble", skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

const fn default_max_tasks() -> u32 {
    NodeSpec::DEFAULT_MAX_TASKS
}

impl NodeSpec {
    /// Node without labels, with the default limit on tasks.
    #[must_use]
    pub fn new(
        id: NodeId,
        instance: InstanceId,
        capacity: Resources,
        kinds: impl IntoIterator<Item = WorkKind>,
    ) -> Self {
        Self {
            id,
            instance,
            capacity,
            kinds: kinds.into_iter().collect(),
            max_tasks: Self::DEFAULT_MAX_TASKS,
            labels: BTreeMap::new(),
            last_error: None,
        }
    }

    /// Default of [`NodeSpec::max_tasks`].
    pub const DEFAULT_MAX_TASKS: u32 = 1024;
    /// Upper bound of [`NodeSpec::max_tasks`]: losing the node changes the records of all its tasks at once.
    pub const MOST_TASKS: u32 = 10_000;
}

/// Fencing token of an agent's calls: one registration of one node. A call with any other than the node's
/// current session has no effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Id of the node.
    pub node: NodeId,
    /// Incarnation of the agent.
    pub incarnation: IncarnationId,
    /// Number of the registration among all registrations of the cluster.
    pub number: u64,
}

/// Ed25519 public key that a node registered with. In JSON 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeKey(pub [u8; 32]);

impl Serialize for NodeKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for NodeKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'));
            pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())
        });
        let bytes: Option<Vec<u8>> = digits.collect();
        let key = bytes.and_then(|bytes| bytes.try_into().ok());
        key.map(Self).ok_or_else(|| D::Error::custom("a key has 64 hexadecimal digits"))
    }
}

/// Record of a node, replicated to every member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Description from the last registration.
    pub spec: NodeSpec,
    /// Liveness of the node.
    pub state: NodeState,
    /// Scheduling policy of the node.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// Time of the last transition to ready: first registration, or return after a loss.
    pub registered_at: Timestamp,
    /// Incarnation of the agent that registered last.
    #[serde(default = "unknown_incarnation")]
    pub incarnation: IncarnationId,
    /// Number of the last registration within this incarnation.
    #[serde(default)]
    pub registration: u64,
    /// Number of its last registration among all registrations of the cluster.
    #[serde(default)]
    pub session: u64,
    /// Key that the node registered with, where authors are keys. Only its holder speaks for the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<NodeKey>,
    /// Incarnations that were fenced because a newer one registered, oldest first, at most
    /// [`NodeRecord::FENCED_MAX`]. They cannot register again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fenced: Vec<IncarnationId>,
    /// Members whose heartbeats from the node are overdue, until they are enough to declare it lost.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub suspected_by: BTreeSet<String>,
}

/// Liveness of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Heartbeats arrive.
    Ready,
    /// Heartbeats are overdue at enough members. Its attempts have ended; the node may return.
    Lost,
}

/// Scheduling policy of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Scheduling {
    /// Accepts new work.
    #[default]
    Open,
    /// Keeps the tasks that it has and accepts no new ones.
    Cordoned,
    /// Gives its tasks up: attempts still there at `evict_at` are stopped and retried on other nodes.
    Draining {
        /// End of the grace period.
        evict_at: Timestamp,
    },
}

/// Incarnation in records that were written before agents had incarnations.
const fn unknown_incarnation() -> IncarnationId {
    IncarnationId::from_bytes([0; 16])
}

impl NodeRecord {
    /// Bound on [`NodeRecord::fenced`].
    pub const FENCED_MAX: usize = 16;

    /// Ready and schedulable node, before any of its registrations has a number.
    #[must_use]
    pub fn new(spec: NodeSpec, incarnation: IncarnationId, registered_at: Timestamp) -> Self {
        Self {
            spec,
            state: NodeState::Ready,
            scheduling: Scheduling::Open,
            registered_at,
            incarnation,
            registration: 0,
            session: 0,
            key: None,
            fenced: Vec::new(),
            suspected_by: BTreeSet::new(),
        }
    }

    /// Session that calls of its agent must carry now.
    #[must_use]
    pub fn current_session(&self) -> Session {
        let (node, incarnation) = (self.spec.id.clone(), self.incarnation);
        Session { node, incarnation, number: self.session }
    }

    /// Whether new work may be placed here.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == NodeState::Ready
            && self.scheduling == Scheduling::Open
            && self.spec.last_error.is_none()
    }
}
