//! Capabilities and status of a consensus.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::MemberId;
use crate::store::{Durability, Revision};

/// Promises of a consensus backend.
///
/// ```
/// use orch_core::{
///     consensus::{ConsensusCapabilities, FaultModel},
///     store::Durability,
/// };
///
/// let capabilities = ConsensusCapabilities::new("paxos", FaultModel::Crash)
///     .durability(Durability::Sync)
///     .membership(true)
///     .max_command_bytes(1 << 20);
/// assert!(!capabilities.shares_store());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsensusCapabilities {
    /// Short name for messages: `local`, `raft`, `pbft`.
    pub name: &'static str,
    /// Faults of members that do no harm.
    pub fault_model: FaultModel,
    /// Failures that an answered proposal survives.
    pub durability: Durability,
    /// Members can be added and removed.
    pub membership: bool,
    /// Location of the changes as readable records.
    pub records: Records,
    /// The largest command in bytes.
    pub max_command_bytes: usize,
}

impl ConsensusCapabilities {
    /// Capabilities of a backend with a `name` and a fault model, which keeps nothing, has constant members,
    /// writes no records and takes commands of up to 1 MiB.
    #[must_use]
    pub const fn new(name: &'static str, fault_model: FaultModel) -> Self {
        Self {
            name,
            fault_model,
            durability: Durability::Memory,
            membership: false,
            records: Records::None,
            max_command_bytes: 1 << 20,
        }
    }

    /// The same with this durability.
    #[must_use]
    pub const fn durability(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    /// The same with members that can be changed, or not.
    #[must_use]
    pub const fn membership(self, membership: bool) -> Self {
        Self { membership, ..self }
    }

    /// The same with these records.
    #[must_use]
    pub const fn records(self, records: Records) -> Self {
        Self { records, ..self }
    }

    /// The same with this bound of commands.
    #[must_use]
    pub const fn max_command_bytes(self, max_command_bytes: usize) -> Self {
        Self { max_command_bytes, ..self }
    }

    /// Several members may decide over the records of one store, and meet there.
    #[must_use]
    pub fn shares_store(&self) -> bool {
        self.fault_model != FaultModel::None && self.records == Records::InStore
    }
}

/// Faults of members that do no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultModel {
    /// There is one member; when it is down, so is the group.
    None,
    /// Members may crash: fewer than half of those that keep the state themselves, any of those that share a
    /// store.
    Crash,
    /// Fewer than a third may do anything at all.
    Byzantine,
}

/// Records that a consensus writes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Records {
    /// It keeps commands (or nothing): the engine may mirror records into a store.
    None,
    /// The records in its store are its durable state. Where there are several members, that store is one for
    /// all.
    InStore,
}

/// Status of a group, as far as one replica knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsensusStatus {
    /// The last position that was applied here.
    pub applied: Revision,
    /// This replica takes proposals itself.
    pub leader: bool,
    /// Members by name, in order.
    pub members: Vec<MemberId>,
    /// Last error, as long as it stands in the way.
    pub last_error: Option<String>,
    /// The last time that its store came back with another history. Decisions may be lost that were
    /// acknowledged; the replica has gone on from what is there.
    pub lost_history: Option<LostHistory>,
}

/// History of a store that was replaced by an older or another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostHistory {
    /// Newest revision that was known.
    pub expected: Revision,
    /// Newest revision of the decisions in the store when that was noticed.
    pub found: Revision,
    /// Times that it happened since this replica was started.
    pub times: u64,
}

/// Sentence for people.
impl fmt::Display for LostHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, found, times } = self;
        let again = if *times == 1 { String::new() } else { format!(" ({times} times since the start)") };
        write!(
            f,
            "the store came back with another history{again}: it was known up to revision {expected} and was at {found} when \
             that was noticed; what was decided in between is lost, also where it was acknowledged"
        )
    }
}

impl ConsensusStatus {
    /// Status of a replica that has applied nothing, does not lead and has no error.
    #[must_use]
    pub fn of(members: impl IntoIterator<Item = MemberId>) -> Self {
        Self { members: members.into_iter().collect(), ..Self::default() }
    }
}

/// Proof that a member misbehaved, in a form that others can check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// Name of the member.
    pub member: MemberId,
    /// Misbehaviour in one sentence.
    pub summary: String,
    /// The signed messages that prove it.
    pub proof: Bytes,
}

impl Evidence {
    /// Proof against `member`, with a summary for people.
    #[must_use]
    pub fn new(member: MemberId, summary: impl Into<String>, proof: Bytes) -> Self {
        Self { member, summary: summary.into(), proof }
    }
}
