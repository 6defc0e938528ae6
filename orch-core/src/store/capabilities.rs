//! Promises of a store, by which the engine's builder and other users choose what they may rely on.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Promises of a store.
///
/// ```
/// use orch_core::store::{Durability, StoreCapabilities};
///
/// let capabilities = StoreCapabilities::new("paper")
///     .compare_and_swap(true)
///     .durability(Durability::Sync)
///     .max_value_bytes(64 << 10);
/// assert!(!capabilities.shared);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreCapabilities {
    /// Short name for messages: `memory`, `redb`, `postgres`.
    pub name: &'static str,
    /// Guards are checked in one total order for all writers. Needed for decisions; a merging store has none.
    pub compare_and_swap: bool,
    /// Other processes may write to the same records.
    pub shared: bool,
    /// Durability of an acknowledged commit.
    pub durability: Durability,
    /// Age of what reads show.
    pub reads: ReadLevel,
    /// Time after which a watch usually has what another process has committed, while nothing fails.
    pub watch_latency: Duration,
    /// [`StateStore::compact`](super::StateStore::compact) frees what it forgets. A store whose history is
    /// its storage keeps all of it.
    pub compacts: bool,
    /// [`StateStore::outcome`](super::StateStore::outcome) settles commits.
    pub outcomes: bool,
    /// The largest value in bytes.
    pub max_value_bytes: usize,
    /// The most writes of one transaction.
    pub max_txn_writes: usize,
}

impl StoreCapabilities {
    /// Capabilities of a store with a `name` that has no compare-and-swap, belongs to one process, keeps
    /// nothing beyond it, reads the latest, watches without delay, compacts, settles no outcomes, and takes
    /// values of up to 1 MiB and transactions of up to 1,024 writes.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            compare_and_swap: false,
            shared: false,
            durability: Durability::Memory,
            reads: ReadLevel::Latest,
            watch_latency: Duration::ZERO,
            compacts: true,
            outcomes: false,
            max_value_bytes: 1 << 20,
            max_txn_writes: 1024,
        }
    }

    /// The same under this name.
    #[must_use]
    pub const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// The same with guards that are checked in one total order, or not.
    #[must_use]
    pub const fn compare_and_swap(self, compare_and_swap: bool) -> Self {
        Self { compare_and_swap, ..self }
    }

    /// The same with records that other processes may write to, or not.
    #[must_use]
    pub const fn shared(self, shared: bool) -> Self {
        Self { shared, ..self }
    }

    /// The same with this durability.
    #[must_use]
    pub const fn durability(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    /// The same with reads of this age.
    #[must_use]
    pub const fn reads(self, reads: ReadLevel) -> Self {
        Self { reads, ..self }
    }

    /// The same with watches that are this late.
    #[must_use]
    pub const fn watch_latency(self, watch_latency: Duration) -> Self {
        Self { watch_latency, ..self }
    }

    /// The same with a history that can be compacted, or not.
    #[must_use]
    pub const fn compacts(self, compacts: bool) -> Self {
        Self { compacts, ..self }
    }

    /// The same with outcomes that can be asked for, or not.
    #[must_use]
    pub const fn outcomes(self, outcomes: bool) -> Self {
        Self { outcomes, ..self }
    }

    /// The same with this bound of values.
    #[must_use]
    pub const fn max_value_bytes(self, max_value_bytes: usize) -> Self {
        Self { max_value_bytes, ..self }
    }

    /// The same with this bound of transactions.
    #[must_use]
    pub const fn max_txn_writes(self, max_txn_writes: usize) -> Self {
        Self { max_txn_writes, ..self }
    }
}

/// Failures that an acknowledged change survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The end of the process loses it.
    Memory,
    /// It survives the process; a power cut or a fail-over may take the last moments (written, synced or
    /// replicated at intervals).
    Group,
    /// It survives a power cut: synced before it was answered. The loss of the disk loses it.
    Sync,
    /// It survives the loss of a machine with its disk: synced on more than one before it was answered.
    Replicated,
}

/// Age of what [`StateStore::get`](super::StateStore::get), `scan` and `watch` show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadLevel {
    /// A copy of this process. It shows everything up to each position that the store has answered to this
    /// process, by a commit or by [`StateStore::head`](super::StateStore::head), which asks for the latest.
    Local,
    /// All that was acknowledged to anybody before the call.
    Latest,
}
