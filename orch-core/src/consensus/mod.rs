//! The [`Consensus`] trait: one total order of commands.
//!
//! Consensus speaks bytes and knows nothing of tasks, so that it serves any replicated state machine. There
//! are two disciplines, and [`StateMachine`] serves both:
//!
//! 1. *Order, then decide* (replicated logs): the command gets its position in the order; every replica calls
//!    [`StateMachine::decide`] for it and then [`StateMachine::commit`].
//! 2. *Decide, then compare-and-swap* (shared stores): the proposer calls `decide` on its own state, writes
//!    the changes under a guard, and calls `commit` on success; when it lost the race, it calls
//!    [`StateMachine::rollback`], [`StateMachine::absorb`]s what the winner wrote, and decides again.

mod author;
mod batch;
mod cas;
mod clock;
mod head;
mod local;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    model::Timestamp,
    store::{Durability, Revision, StoreError, Write},
};

pub use author::{Author, Context};
pub use cas::{StoreConsensus, StoreConsensusConfig};
pub use clock::HybridClock;
pub use local::{LocalConfig, LocalConsensus};

/// Puts commands in one order and gives them to a [`StateMachine`]. The contract is between a backend and the
/// engine.
///
/// A backend MUST:
/// - resolve a proposal with its outcome only once its changes are as durable as declared, and apply each
///   accepted proposal exactly once;
/// - give every replica the same commands with the same contexts in the same order, each with the author that
///   it authenticated;
/// - never call the machine from two threads at once.
#[async_trait]
pub trait Consensus: Send + Sync + fmt::Debug + 'static {
    /// Promises of this backend, constant while it exists.
    fn capabilities(&self) -> ConsensusCapabilities;

    /// Loads what earlier incarnations agreed on into `machine` and begins to take proposals. Called once.
    ///
    /// # Errors
    /// [`ConsensusError`] when the durable state cannot be read, or it was started before.
    async fn start(&self, machine: Box<dyn StateMachine>) -> Result<(), ConsensusError>;

    /// Has `command` put in order and decided. Dropping the future does not take the command back.
    ///
    /// # Errors
    /// [`ConsensusError`]; where [`ConsensusError::outcome_unknown`], the command may have been applied or
    /// may still be.
    async fn propose(&self, command: Bytes) -> Result<Committed, ConsensusError>;

    /// Waits until this replica has everything that was committed anywhere before the call, and says up to
    /// where. A read of the machine's state after it is linearizable.
    ///
    /// # Errors
    /// [`ConsensusError`] when that cannot be found out.
    async fn read_barrier(&self) -> Result<Revision, ConsensusError>;

    /// The time that a proposal made now would carry: the later of the system clock and the latest time of
    /// the group, going on evenly (a hybrid logical clock; Kulkarni et al., "Logical Physical Clocks", OPODIS
    /// 2014). Goes back in [`Consensus::set_clock_back`] only.
    fn now(&self) -> Timestamp;

    /// Other members say that it is `time`, and the clock of this one is ahead of it: proposals go on from
    /// there, or from the latest time of the group where that is later. Without effect where members compare
    /// their clocks themselves.
    fn set_clock_back(&self, time: Timestamp) {
        let _ = time;
    }

    /// The author that proposals of this replica carry.
    fn author(&self) -> Author;

    /// Status of the group, as far as this replica knows.
    fn status(&self) -> ConsensusStatus;

    /// Proofs of misbehaviour that this replica holds. Empty where the fault model is a crash.
    fn evidence(&self) -> Vec<Evidence>;

    /// Adds or removes a member, as an ordered command.
    ///
    /// # Errors
    /// [`ConsensusError::Unsupported`] where the group has one member only.
    async fn change_membership(&self, change: MembershipChange) -> Result<Revision, ConsensusError>;

    /// Finishes accepted proposals, makes them durable and stops. Later proposals answer
    /// [`ConsensusError::Stopped`]; stopping twice is no error.
    async fn shutdown(&self);
}

/// Replicated state machine. Implementations are deterministic: the outcome of `decide` depends on the
/// applied commands and their contexts alone.
pub trait StateMachine: Send + fmt::Debug + 'static {
    /// Decides `command` on top of everything decided so far and takes it in tentatively, so that the next
    /// `decide` sees it.
    fn decide(&mut self, context: &Context<'_>, command: &[u8]) -> Decision;

    /// Everything tentative is final, at this position. From now on readers and watchers may see it.
    fn commit(&mut self, revision: Revision);

    /// Nothing tentative ever happened.
    fn rollback(&mut self);

    /// Applies, as final, changes that another replica decided. Nothing may be tentative.
    ///
    /// # Errors
    /// [`MachineError`] names the record that cannot be read. The machine is unchanged then.
    fn absorb(&mut self, revision: Revision, writes: &[Write]) -> Result<(), MachineError>;

    /// The latest time that an applied command brought. A proposer whose clock was set back goes on from
    /// here, so that time never stands still.
    fn time(&self) -> Timestamp;

    /// Prefixes of the keys of its records; the rest of a store is not its business.
    fn prefixes(&self) -> &'static [&'static str];

    /// Replaces the whole state by the records of a store as they were at `revision`, in any order.
    ///
    /// # Errors
    /// [`MachineError`] names the record that cannot be read or does not fit. The machine is unchanged then.
    fn load(&mut self, revision: Revision, records: &[Write]) -> Result<(), MachineError>;

    /// The whole final state at its revision, for [`StateMachine::restore`] of another replica.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the whole state.
    ///
    /// # Errors
    /// [`MachineError`] when it cannot be read. The machine is unchanged then.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError>;

    /// A hash of the whole final state; equal on replicas that applied the same commands.
    fn digest(&self) -> [u8; 32];
}

/// Outcome and changes of a command.
#[derive(Debug)]
pub struct Decision {
    /// Answer to the proposer.
    pub outcome: Bytes,
    /// Records that it put or deleted.
    pub changes: Changes,
}

/// Changes that are encoded only when they are needed: a replica that keeps no readable records never pays
/// for it, and one that does may pay on another thread.
pub struct Changes(Box<dyn FnOnce() -> Vec<Write> + Send>);

impl Changes {
    /// Changes that `encode` writes down.
    #[must_use]
    pub fn lazy(encode: impl FnOnce() -> Vec<Write> + Send + 'static) -> Self {
        Self(Box::new(encode))
    }

    /// The changes as writes of records.
    #[must_use]
    pub fn into_writes(self) -> Vec<Write> {
        (self.0)()
    }
}

impl From<Vec<Write>> for Changes {
    fn from(writes: Vec<Write>) -> Self {
        Self::lazy(move || writes)
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Changes(..)")
    }
}

/// Something that a machine was given to read and cannot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read: {problem}")]
pub struct MachineError {
    /// Name of the record or snapshot.
    pub what: String,
    /// Reason.
    pub problem: String,
}

/// A command that has its position in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its position. Commands that were committed together share it.
    pub revision: Revision,
    /// Outcome that the machine decided.
    pub outcome: Bytes,
}

/// Promises of a consensus backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Several members may decide over the records of one store, and meet there.
    #[must_use]
    pub fn shares_store(&self) -> bool {
        self.fault_model != FaultModel::None && self.records == Records::InStore
    }
}

/// Faults of members that do no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub enum Records {
    /// It keeps commands (or nothing): the engine may mirror records into a store.
    None,
    /// The records in its store are its durable state. Where there are several members, that store is one for
    /// all.
    InStore,
}

/// Status of a group, as far as one replica knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusStatus {
    /// The last position that was applied here.
    pub applied: Revision,
    /// This replica takes proposals itself.
    pub leader: bool,
    /// Members by name, in order.
    pub members: Vec<String>,
    /// Last error, as long as it stands in the way.
    pub last_error: Option<String>,
}

/// Proof that a member misbehaved, in a form that others can check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Name of the member.
    pub member: String,
    /// Misbehaviour in one sentence.
    pub summary: String,
    /// The signed messages that prove it.
    pub proof: Bytes,
}

/// A change of the group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// Adds the member; the bytes are what the backend needs to know about it.
    Add {
        /// Its name.
        member: String,
        /// Address, key, ...: the backend documents it.
        detail: Bytes,
    },
    /// Removes the member.
    Remove {
        /// Its name.
        member: String,
    },
}

/// Reasons why a proposal has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConsensusError {
    /// It was not started yet, or started twice.
    #[error("consensus was {0}")]
    Lifecycle(&'static str),
    /// It was shut down.
    #[error("consensus has been shut down")]
    Stopped,
    /// It has stopped, because its store failed and could not be read back. A restart shows what is stored.
    #[error("consensus has stopped, because its store failed")]
    StoreLost(#[source] StoreError),
    /// Too many proposals wait already. Nothing happened; try again later.
    #[error("too many proposals wait already")]
    Busy,
    /// The command is larger than the backend takes.
    #[error("a command of {size} bytes is too large; at most {max} are taken")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The largest size in bytes.
        max: usize,
    },
    /// This replica cannot take proposals now.
    #[error("no leader takes proposals: {0}")]
    NoLeader(String),
    /// Others kept winning the race for the store.
    #[error("gave up after losing {0} races against other writers")]
    Contention(u32),
    /// The store behind it failed.
    #[error("the store of the consensus failed")]
    Store(#[from] StoreError),
    /// A record or snapshot cannot be read.
    #[error("the state of the cluster cannot be read")]
    Machine(#[from] MachineError),
    /// This backend does not offer it.
    #[error("{0} is not supported here")]
    Unsupported(&'static str),
    /// It was not done and never will be: this replica is no member, or the group cannot have these members.
    #[error("refused: {0}")]
    Refused(String),
    /// This replica cannot find out whether it was done.
    #[error("whether it was done is not known: {0}")]
    OutcomeUnknown(String),
}

impl ConsensusError {
    /// True when trying again may work.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy | Self::NoLeader(_) | Self::Contention(_) => true,
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// True when the command may have been applied all the same, or may still be.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Stopped | Self::StoreLost(_) | Self::OutcomeUnknown(_) => true,
            Self::Store(error) => error.outcome_unknown(),
            _ => false,
        }
    }
}
