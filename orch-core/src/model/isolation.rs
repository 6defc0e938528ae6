//! [`Isolation`] of a task from its node.

use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    ops::{Deref, DerefMut},
    sync::LazyLock,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Isolation of a task from its node. The default is that of a container engine for any image, without the
/// right to gain privileges; [`Isolation::hardened`] is for untrusted code.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Isolation {
    /// Network that the task is attached to.
    pub network: NetworkMode,
    /// `user`, `uid` or `uid:gid`; the image's or the agent's own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether the root file system is mounted read-only.
    pub read_only_root: bool,
    /// Whether the task and its children may gain privileges that it was not started with (setuid programs).
    pub new_privileges: bool,
    /// Whether all capabilities are dropped before `add_capabilities` are granted.
    pub drop_all_capabilities: bool,
    /// Linux capabilities granted beyond the engine's default set.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub add_capabilities: BTreeSet<Capability>,
    /// Maximum number of processes and threads at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<NonZeroU32>,
    /// Maximum number of open files at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files_limit: Option<NonZeroU32>,
}

impl Isolation {
    /// Strict isolation: no network, read-only root, user 1000:1000, no capabilities, 128 processes, 1024
    /// files.
    #[must_use]
    pub fn hardened() -> Self {
        Self {
            network: NetworkMode::None,
            user: Some("1000:1000".into()),
            read_only_root: true,
            new_privileges: false,
            drop_all_capabilities: true,
            add_capabilities: BTreeSet::new(),
            pids_limit: NonZeroU32::new(128),
            open_files_limit: NonZeroU32::new(1024),
        }
    }
}

/// [`Isolation`] that takes no memory while it is the default, because a cluster may hold millions of tasks.
/// Its serde form is that of the isolation.
#[derive(Clone, Debug, Default)]
pub struct SpareIsolation(Option<Box<Isolation>>);

impl Deref for SpareIsolation {
    type Target = Isolation;

    fn deref(&self) -> &Isolation {
        static DEFAULT: LazyLock<Isolation> = LazyLock::new(Isolation::default);
        self.0.as_deref().unwrap_or(&DEFAULT)
    }
}

impl DerefMut for SpareIsolation {
    fn deref_mut(&mut self) -> &mut Isolation {
        self.0.get_or_insert_default()
    }
}

impl PartialEq for SpareIsolation {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SpareIsolation {}

impl From<Isolation> for SpareIsolation {
    fn from(isolation: Isolation) -> Self {
        Self((isolation != Isolation::default()).then(|| Box::new(isolation)))
    }
}

impl Serialize for SpareIsolation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SpareIsolation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Isolation::deserialize(deserializer).map(Self::from)
    }
}

/// Network that a task is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The runtime's usual network: outgoing connections, and the ports of its resources from outside.
    #[default]
    Bridge,
    /// Loopback only.
    None,
    /// The node's own network namespace.
    Host,
    /// A named network of the engine.
    Named(String),
}

/// Linux capability without the `CAP_` prefix: `NET_BIND_SERVICE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capability(pub String);
