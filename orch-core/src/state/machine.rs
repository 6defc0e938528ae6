//! [`ClusterState`] as a [`StateMachine`]: commands and records as bytes, tentative changes that can be
//! rolled back, and final ones handed to a publisher.

use std::sync::Arc;

use bytes::Bytes;
use tracing::error;

use super::{Change, ClusterState, Decided, Envelope, Outcome, Rejection};
use crate::{
    consensus::{Changes, Context, Decision, MachineError, StateMachine},
    model::Timestamp,
    store::{Revision, Write},
};

/// Receiver of final changes. Called from inside consensus: must be quick and must not wait.
pub trait Publish: Send + std::fmt::Debug + 'static {
    /// Publishes changes that are final, in this order.
    fn publish(&mut self, revision: Revision, changes: &[Change], state: &ClusterState);

    /// Replaces everything published before: this is the state now.
    fn reset(&mut self, revision: Revision, state: &ClusterState);
}

/// The functional core behind a [`Consensus`](crate::consensus::Consensus).
#[derive(Debug)]
pub struct ClusterMachine {
    state: ClusterState,
    publish: Box<dyn Publish>,
    revision: Revision,
    /// Changes decided since the last commit.
    tentative: Vec<Arc<Vec<Change>>>,
    /// Changes that undo the tentative ones, in the order in which those were made.
    undo: Vec<Change>,
}

impl ClusterMachine {
    /// Machine that starts from `state` and publishes final changes to `publish`.
    #[must_use]
    pub fn new(state: ClusterState, publish: Box<dyn Publish>) -> Self {
        Self { state, publish, revision: Revision::ZERO, tentative: Vec::new(), undo: Vec::new() }
    }

    /// Encodes a command for [`Consensus::propose`](crate::consensus::Consensus::propose).
    ///
    /// # Panics
    /// Never: a command always has a JSON form.
    #[must_use]
    pub fn encode_command(envelope: &Envelope) -> Bytes {
        serde_json::to_vec(envelope).expect("plain data has a JSON form").into()
    }

    /// Decodes the outcome that [`Consensus::propose`](crate::consensus::Consensus::propose) returned.
    ///
    /// # Errors
    /// Bytes that this machine did not write.
    pub fn decode_outcome(outcome: &[u8]) -> Result<Result<Outcome, Rejection>, MachineError> {
        serde_json::from_slice(outcome).map_err(|error| MachineError::unparsable("an outcome", error))
    }

    fn is_final(&self) -> bool {
        self.tentative.is_empty()
    }

    /// Publishes a state that was replaced as a whole.
    fn became(&mut self, revision: Revision) {
        (self.tentative, self.undo) = (Vec::new(), Vec::new());
        self.revision = revision;
        self.publish.reset(revision, &self.state);
    }
}

impl StateMachine for ClusterMachine {
    fn decide(&mut self, context: &Context<'_>, command: &[u8]) -> Decision {
        let Decided { outcome, changes } = match serde_json::from_slice::<Envelope>(command) {
            Ok(envelope) => self.state.decide(context, &envelope),
            Err(error) => Decided {
                outcome: Err(Rejection::Malformed { problem: error.to_string() }),
                changes: Vec::new(),
            },
        };
        self.undo.extend(changes.iter().map(|change| self.state.absorb(change.clone())));
        let changes = Arc::new(changes);
        self.tentative.push(changes.clone());
        Decision {
            outcome: serde_json::to_vec(&outcome).expect("plain data has a JSON form").into(),
            changes: Changes::lazy(move || changes.iter().map(Change::to_write).collect()),
        }
    }

    fn commit(&mut self, revision: Revision) {
        self.revision = revision;
        self.undo.clear();
        let decided = std::mem::take(&mut self.tentative);
        let changes: Vec<Change> = decided.iter().flat_map(|changes| changes.iter().cloned()).collect();
        self.publish.publish(revision, &changes, &self.state);
    }

    fn rollback(&mut self) {
        self.tentative.clear();
        for change in std::mem::take(&mut self.undo).into_iter().rev() {
            self.state.absorb(change);
        }
    }

    fn absorb(&mut self, revision: Revision, writes: &[Write]) -> Result<(), MachineError> {
        assert!(self.is_final(), "absorb while changes are tentative");
        let changes = Change::from_writes(writes, |id| self.state.spec(id).cloned())?;
        let mut undo = Vec::new();
        for change in &changes {
            if let Err(error) = self.state.check_foreign(change) {
                for change in undo.into_iter().rev() {
                    self.state.absorb(change);
                }
                return Err(error);
            }
            undo.push(self.state.absorb(change.clone()));
        }
        self.revision = revision;
        self.publish.publish(revision, &changes, &self.state);
        Ok(())
    }

    fn time(&self) -> Timestamp {
        self.state.time()
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &Change::PREFIXES
    }

    fn load(&mut self, revision: Revision, records: &[Write]) -> Result<(), MachineError> {
        self.state.rebuild(Change::from_writes(records, |_| None)?)?;
        self.became(revision);
        Ok(())
    }

    fn snapshot(&self) -> Vec<u8> {
        if !self.is_final() {
            error!("a snapshot was taken while changes were tentative");
        }
        let mut bytes = self.revision.0.to_be_bytes().to_vec();
        bytes.extend(self.state.snapshot());
        bytes
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        let too_short = || MachineError::malformed("snapshot", "it is cut off");
        let (revision, state) = snapshot.split_first_chunk::<8>().ok_or_else(too_short)?;
        self.state.restore(state)?;
        self.became(Revision(u64::from_be_bytes(*revision)));
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        self.state.digest()
    }
}
