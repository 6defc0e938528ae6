//! Machines, as the cluster knows them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{IncarnationId, InstanceId, NodeId, Resources, Timestamp, WorkKind};

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
    /// Error that keeps it from taking new work, by its own account: an engine that does not answer, say.
    #[serde(default, alias = "trouble", skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

const fn default_max_tasks() -> u32 {
    NodeSpec::DEFAULT_MAX_TASKS
}

impl NodeSpec {
    /// Node without labels that takes as many tasks as nodes usually do.
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

    /// How many tasks a node takes at a time unless it says otherwise.
    pub const DEFAULT_MAX_TASKS: u32 = 1024;
    /// How many it may take at the most: losing the node changes all of them at once.
    pub const MOST_TASKS: u32 = 10_000;
}

/// Fencing token of an agent's calls: one registration of one node. A call that carries another than the node's current
/// one has no effect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Name of the node.
    pub node: NodeId,
    /// Process of the agent.
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
    /// When it joined, or came back.
    pub registered_at: Timestamp,
    /// Process of the agent that registered last.
    #[serde(default = "unknown_incarnation")]
    pub incarnation: IncarnationId,
    /// The last registration of this process, by its own count.
    #[serde(default)]
    pub registration: u64,
    /// Number of its last registration among all registrations of the cluster.
    #[serde(default)]
    pub session: u64,
    /// Key that it registered with, where authors are keys. Only its holder speaks for the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<NodeKey>,
    /// Processes that a newer one has taken the node over from, oldest first, at most
    /// [`NodeRecord::FENCED_MAX`]. They cannot register again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fenced: Vec<IncarnationId>,
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
        /// When grace ends.
        evict_at: Timestamp,
    },
}

/// Of records that were written before agents had incarnations.
const fn unknown_incarnation() -> IncarnationId {
    IncarnationId::from_bytes([0; 16])
}

impl NodeRecord {
    /// Bound on [`NodeRecord::fenced`].
    pub const FENCED_MAX: usize = 16;

    /// Node that is there and open, before any registration of it has a number.
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

    /// What calls of its agent carry now.
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
