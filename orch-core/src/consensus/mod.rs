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
mod error;
mod head;
mod local;
mod machine;
mod member;
mod status;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{model::Timestamp, store::Revision};

pub use author::{Author, Context};
pub use cas::{StoreConsensus, StoreConsensusConfig};
pub use clock::HybridClock;
pub use error::{Cause, ConsensusError, MachineError};
pub use local::{LocalConfig, LocalConsensus};
pub use machine::{Changes, Decision, StateMachine};
pub use member::{MemberId, MemberIdError, MemberRole, MembershipChange};
pub use status::{ConsensusCapabilities, ConsensusStatus, Evidence, FaultModel, LostHistory, Records};

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
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{consensus::{Consensus, LocalConsensus}};
    /// let consensus = LocalConsensus::in_memory();
    /// assert_eq!(consensus.capabilities().name, "local");
    /// # });
    /// ```
    fn capabilities(&self) -> ConsensusCapabilities;

    /// Loads what earlier incarnations agreed on into `machine` and begins to take proposals. Called once.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{consensus::{Consensus, LocalConsensus}, testkit::Counter};
    /// let consensus = LocalConsensus::in_memory();
    /// consensus.start(Box::new(Counter::default())).await.unwrap();
    /// assert!(consensus.start(Box::new(Counter::default())).await.is_err());
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`ConsensusError`] when the durable state cannot be read, or it was started before.
    async fn start(&self, machine: Box<dyn StateMachine>) -> Result<(), ConsensusError>;

    /// Has `command` put in order and decided. Dropping the future does not take the command back.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{consensus::{Consensus, LocalConsensus}, testkit::Counter};
    /// # let consensus = LocalConsensus::in_memory();
    /// # consensus.start(Box::new(Counter::default())).await.unwrap();
    /// let first = consensus.propose("one".into()).await.unwrap();
    /// let second = consensus.propose("two".into()).await.unwrap();
    /// assert!(first.revision < second.revision);
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`ConsensusError`]; where [`ConsensusError::outcome_unknown`], the command may have been applied or
    /// may still be.
    async fn propose(&self, command: Bytes) -> Result<Committed, ConsensusError>;

    /// Waits until this replica has everything that was committed anywhere before the call, and says up to
    /// where. A read of the machine's state after it is linearizable.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{consensus::{Consensus, LocalConsensus}, testkit::Counter};
    /// # let consensus = LocalConsensus::in_memory();
    /// # consensus.start(Box::new(Counter::default())).await.unwrap();
    /// let committed = consensus.propose("one".into()).await.unwrap();
    /// assert!(consensus.read_barrier().await.unwrap() >= committed.revision);
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`ConsensusError`] when that cannot be found out.
    async fn read_barrier(&self) -> Result<Revision, ConsensusError>;

    /// The time that a proposal made now would carry: the later of the system clock and the latest time of
    /// the group, going on evenly (a hybrid logical clock; Kulkarni et al., "Logical Physical Clocks", OPODIS
    /// 2014). Goes back in [`Consensus::set_clock_back`] only.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{consensus::{Consensus, LocalConsensus}, testkit::Counter};
    /// # let consensus = LocalConsensus::in_memory();
    /// # consensus.start(Box::new(Counter::default())).await.unwrap();
    /// assert!(consensus.now() <= consensus.now());
    /// # });
    /// ```
    fn now(&self) -> Timestamp;

    /// Other members say that it is `time`, and the clock of this one is ahead of it: proposals go on from
    /// there, or from the latest time of the group where that is later. Without effect where members compare
    /// their clocks themselves.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{consensus::{Consensus, LocalConsensus}, testkit::Counter};
    /// # let consensus = LocalConsensus::in_memory();
    /// # consensus.start(Box::new(Counter::default())).await.unwrap();
    /// consensus.set_clock_back(consensus.now());
    /// # });
    /// ```
    fn set_clock_back(&self, time: Timestamp) {
        let _ = time;
    }

    /// The author that proposals of this replica carry.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{consensus::{Consensus, LocalConsensus}, testkit::Counter};
    /// # let consensus = LocalConsensus::in_memory();
    /// # consensus.start(Box::new(Counter::default())).await.unwrap();
    /// assert_eq!(consensus.author().to_string(), "local");
    /// # });
    /// ```
    fn author(&self) -> Author;

    /// Status of the group, as far as this replica knows.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{consensus::{Consensus, LocalConsensus}, testkit::Counter};
    /// # let consensus = LocalConsensus::in_memory();
    /// # consensus.start(Box::new(Counter::default())).await.unwrap();
    /// assert!(consensus.status().leader);
    /// consensus.shutdown().await;
    /// assert_eq!(consensus.status().last_error.as_deref(), Some("shut down"));
    /// # });
    /// ```
    fn status(&self) -> ConsensusStatus;

    /// Proofs of misbehaviour that this replica holds. Empty where the fault model is a crash.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{consensus::{Consensus, LocalConsensus}, testkit::Counter};
    /// # let consensus = LocalConsensus::in_memory();
    /// # consensus.start(Box::new(Counter::default())).await.unwrap();
    /// assert!(consensus.evidence().is_empty());
    /// # });
    /// ```
    fn evidence(&self) -> Vec<Evidence> {
        Vec::new()
    }

    /// Adds or removes a member, as an ordered command.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::consensus::{Consensus, ConsensusError, LocalConsensus, MembershipChange};
    /// # use orch_core::testkit::Counter;
    /// # let consensus = LocalConsensus::in_memory();
    /// # consensus.start(Box::new(Counter::default())).await.unwrap();
    /// let change = MembershipChange::remove("second".parse().unwrap());
    /// let refused = consensus.change_membership(change).await;
    /// assert!(matches!(refused, Err(ConsensusError::Unsupported(_))));
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`ConsensusError::Unsupported`] where [`ConsensusCapabilities::membership`] is false.
    async fn change_membership(&self, change: MembershipChange) -> Result<Revision, ConsensusError> {
        let _ = change;
        Err(ConsensusError::Unsupported("a change of members"))
    }

    /// Finishes accepted proposals, makes them durable and stops. Later proposals answer
    /// [`ConsensusError::Stopped`]; stopping twice is no error.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::{consensus::{Consensus, ConsensusError, LocalConsensus}, testkit::Counter};
    /// # let consensus = LocalConsensus::in_memory();
    /// # consensus.start(Box::new(Counter::default())).await.unwrap();
    /// consensus.shutdown().await;
    /// let late = consensus.propose("one".into()).await;
    /// assert!(matches!(late, Err(ConsensusError::Stopped)));
    /// # });
    /// ```
    async fn shutdown(&self);
}

/// A command that has its position in the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its position. Commands that were committed together share it.
    pub revision: Revision,
    /// Outcome that the machine decided.
    pub outcome: Bytes,
}
