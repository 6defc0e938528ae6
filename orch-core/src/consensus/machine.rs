//! [`StateMachine`]: the state that a consensus replicates.

use std::fmt;

use bytes::Bytes;

use super::{Context, MachineError};
use crate::{
    model::Timestamp,
    store::{Revision, Write},
};

/// Replicated state machine. Implementations are deterministic: the outcome of `decide` depends on the
/// applied commands and their contexts alone.
///
/// A machine whose changes are no records of a store leaves out `prefixes`, `load` and `absorb`. Replicated
/// logs do without them.
pub trait StateMachine: Send + fmt::Debug + 'static {
    /// Decides `command` on top of everything decided so far and applies it tentatively, so that the next
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
    fn absorb(&mut self, revision: Revision, writes: &[Write]) -> Result<(), MachineError> {
        let _ = (revision, writes);
        Err(no_records())
    }

    /// The latest time that an applied command brought. A proposer whose clock was set back goes on from
    /// here, so that time never stands still.
    fn time(&self) -> Timestamp;

    /// Prefixes of the keys of its records; the rest of a store is not its business.
    fn prefixes(&self) -> &'static [&'static str] {
        &[]
    }

    /// Replaces the whole state by the records of a store as they were at `revision`, in any order.
    ///
    /// # Errors
    /// [`MachineError`] names the record that cannot be read or does not fit. The machine is unchanged then.
    fn load(&mut self, revision: Revision, records: &[Write]) -> Result<(), MachineError> {
        let _ = revision;
        if records.is_empty() { Ok(()) } else { Err(no_records()) }
    }

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

fn no_records() -> MachineError {
    MachineError::malformed("a record", "this machine keeps none")
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
