//! Transactions of one commit group: their outcomes, and what follows once they are on the disk.

use std::num::NonZeroU64;

use orch_core::store::{CommitError, History, Key, Revision, Write};

use crate::completion::{CompletionSender, complete_all};

/// Outcome of one transaction of a commit group.
pub(crate) enum TxnOutcome {
    Applied(Vec<Write>),
    Conflict(Key),
}

/// Shows watches what a group on the disk has changed, and answers those who wait for it.
pub(crate) fn publish(
    history: &History,
    oldest: Revision,
    senders: impl Iterator<Item = CompletionSender<Result<Revision, CommitError>>>,
    outcomes: Vec<TxnOutcome>,
) {
    let (mut head, mut changes) = (history.head(), Vec::new());
    let result_of = |outcome| match outcome {
        TxnOutcome::Applied(writes) => {
            changes.push(writes);
            head = head.next();
            Ok(head)
        }
        TxnOutcome::Conflict(key) => Err(CommitError::Conflict { key }),
    };
    let completions: Vec<_> = senders.zip(outcomes.into_iter().map(result_of)).collect();
    history.extend(changes);
    // A completed commit must not show an older start of the log than there is.
    history.forget(oldest);
    complete_all(completions);
}

/// First revision of a log that reaches `head`: trimmed to the `keep` newest revisions once there is an
/// eighth more.
pub(crate) fn trimmed(oldest: Revision, head: Revision, keep: NonZeroU64) -> Revision {
    let surplus = (head.0 - oldest.0).saturating_sub(keep.get());
    if surplus > keep.get() / 8 { Revision(oldest.0 + surplus) } else { oldest }
}
