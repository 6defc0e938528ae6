//! Checks of the protocol that the simulation switches off, one by one, to see whether it would notice.

/// A check, named by the lines of the papers that ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// TOCS 4.2, and epochs: a vote counts in the epoch in which it was cast.
    CurrentEpoch,
    /// TOCS 4.4: O follows from V. A backup works out the NEW-VIEW's proposals and refuses any others.
    ProposalsFollow,
    /// TOCS 4.1: a request that was executed is answered from the table and not executed again.
    NotExecutedBefore,
    /// TOCS 5.3: a fetched piece of the state has the digest that a quorum named.
    StateDigest,
}
