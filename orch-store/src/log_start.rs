//! Start of a watch in a log: refused where the log begins later, or has another history.

use orch_core::store::{Position, StoreError};

/// Checks that a log from `oldest` to `head`, which has the commit `found` at the revision of `after`, can be
/// read on from there.
pub(crate) fn check(
    after: Position,
    found: Option<Position>,
    oldest: Position,
    head: Position,
) -> Result<(), StoreError> {
    if after.revision < oldest.revision {
        return Err(StoreError::Compacted { oldest });
    }
    match found == Some(after) {
        true => Ok(()),
        false => Err(StoreError::Diverged { expected: after, head }),
    }
}
