//! What stores of one process do with the commits of a group, besides writing them.

use std::num::NonZeroU64;

use orch_core::store::{CommitError, History, Key, Revision, Write};

use crate::answer::{Question, answer_all};

/// What became of one transaction of a group.
pub(crate) enum Verdict {
    Applied(Vec<Write>),
    Conflict(Key),
}

/// Shows watches what a group on the disk has changed, and answers those who wait for it.
pub(crate) fn publish(
    history: &History,
    oldest: Revision,
    questions: impl Iterator<Item = Question<Result<Revision, CommitError>>>,
    verdicts: Vec<Verdict>,
) {
    let (mut head, mut changes) = (history.head(), Vec::new());
    let answer_to = |verdict| match verdict {
        Verdict::Applied(writes) => {
            changes.push(writes);
            head = head.next();
            Ok(head)
        }
        Verdict::Conflict(key) => Err(CommitError::Conflict { key }),
    };
    let answers: Vec<_> = questions.zip(verdicts.into_iter().map(answer_to)).collect();
    history.extend(changes);
    // Whoever has an answer must not be told of an older beginning than there is.
    history.forget(oldest);
    answer_all(answers);
}

/// Where a log that reaches to `head` begins from now on: it is cut to what is to be kept when there is an eighth more.
pub(crate) fn trimmed(oldest: Revision, head: Revision, keep: NonZeroU64) -> Revision {
    let surplus = (head.0 - oldest.0).saturating_sub(keep.get());
    if surplus > keep.get() / 8 { Revision(oldest.0 + surplus) } else { oldest }
}
