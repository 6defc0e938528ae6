//! [`Proposer`]: the control side's way to a decision.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use orch_base::backoff::Backoff;

use super::error::Result;
use crate::{
    consensus::{Consensus, ConsensusError},
    environment::Environment,
    model::{CommandId, TaskId, Timestamp},
    state::{ClusterMachine, Command, Envelope, Outcome, Rejection},
    store::Revision,
};

/// Encodes commands, proposes them, and proposes them again where that is safe and may help.
#[derive(Debug)]
pub(super) struct Proposer {
    consensus: Arc<dyn Consensus>,
    environment: Arc<dyn Environment>,
    /// Number of the next task that is submitted without an id.
    next_task: AtomicU32,
}

/// A command that was decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decided {
    /// Its revision, or a later one.
    pub(super) revision: Revision,
    pub(super) outcome: Outcome,
}

impl Proposer {
    const TRIES: u32 = 6;

    pub(super) fn new(consensus: Arc<dyn Consensus>, environment: Arc<dyn Environment>) -> Self {
        let first_task = u32::try_from(environment.random() & u128::from(u32::MAX)).expect("32 bits");
        Self { consensus, environment, next_task: AtomicU32::new(first_task) }
    }

    pub(super) fn new_task_id(&self) -> TaskId {
        TaskId::following(self.next_task.fetch_add(1, Ordering::Relaxed), self.environment.random())
    }

    pub(super) fn new_command_id(&self) -> CommandId {
        CommandId::of_random(self.environment.random())
    }

    /// The time of a proposal made now. It may be ahead of the system clock.
    pub(super) fn now(&self) -> Timestamp {
        self.consensus.now()
    }

    /// Returns once this member has everything that was decided anywhere before the call.
    pub(super) async fn barrier(&self) -> std::result::Result<Revision, ConsensusError> {
        self.consensus.read_barrier().await
    }

    /// Has a command of a user decided, under an id of its own.
    pub(super) async fn command(&self, command: Command) -> Result<Decided> {
        self.decide(Envelope::identified(self.new_command_id(), command)).await
    }

    /// Has a command decided. One with an id is proposed again when its fate is not known; the state applies
    /// it once.
    pub(super) async fn decide(&self, envelope: Envelope) -> Result<Decided> {
        let (revision, outcome) = self.propose(envelope).await?;
        Ok(Decided { revision, outcome: outcome? })
    }

    /// As [`Proposer::decide`], for callers to whom the revision of a rejection matters.
    pub(super) async fn propose(
        &self,
        envelope: Envelope,
    ) -> Result<(Revision, std::result::Result<Outcome, Rejection>)> {
        let repeatable = envelope.id.is_some();
        let command = ClusterMachine::encode_command(&envelope);
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        for attempt in 1.. {
            match self.consensus.propose(command.clone()).await {
                Ok(committed) => {
                    let outcome =
                        ClusterMachine::decode_outcome(&committed.outcome).map_err(ConsensusError::from)?;
                    return Ok((committed.revision, outcome));
                }
                Err(error) => {
                    let again = error.is_retryable() && (repeatable || !error.outcome_unknown());
                    if !again || attempt >= Self::TRIES {
                        return Err(error.into());
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
        unreachable!("the loop returns")
    }
}
