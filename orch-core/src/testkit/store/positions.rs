//! Positions of commits, and outcomes that are asked for.

use futures_util::StreamExt as _;

use super::{StoreHarness, key, must_commit, must_put, put};
use crate::store::{
    CommitError, CommitId, Guard, Incarnation, Position, Revision, StateStore, StoreError, Txn,
};

/// A position of another history is taken for none of this one: guards with it do not hold, and watches do
/// not start from it, nor from one that is yet to come.
pub async fn positions_of_another_history_are_refused(harness: &dyn StoreHarness) {
    let store = harness.open("histories").await;
    let first = must_put(&*store, "k", "1").await;
    let last = must_put(&*store, "k", "2").await;
    let foreign = |at: Position| Position { incarnation: Incarnation(at.incarnation.0 ^ 0x5555_5555), ..at };
    if store.capabilities().compare_and_swap {
        let guarded = Txn::of(vec![put("k", "3")]).guarded(Guard::Version(key("k"), foreign(last)));
        let refused = store.commit(guarded).await;
        assert!(
            matches!(refused, Err(CommitError::Conflict { .. })),
            "a guard with a position of another history must not hold: {refused:?}"
        );
    }
    let later = Position { revision: last.revision.next(), ..last };
    for (from, why) in [
        (foreign(first), "another history, and then more came"),
        (foreign(last), "another history, at the newest revision"),
        (later, "a revision that is yet to come"),
    ] {
        must_diverge(&*store, from, why).await;
    }
    assert_eq!(store.head().await.expect("head"), last, "nothing was written");
}

/// A commit is found by its name; one that did not happen is not found, and does not happen later.
pub async fn outcomes_are_settled(harness: &dyn StoreHarness) {
    let store = harness.open("outcomes").await;
    must_put(&*store, "k", "0").await;
    let before = store.head().await.expect("head").revision;
    let ids: [CommitId; 4] = std::array::from_fn(|_| CommitId::random());
    let named = |id, value| Txn::of(vec![put("k", value)]).named(id);
    let first = must_commit(&*store, named(ids[0], "1")).await;
    let empty = must_commit(&*store, Txn::default().named(ids[1])).await;
    let last = must_put(&*store, "k", "2").await;
    for (id, position) in [(ids[0], first), (ids[1], empty)] {
        let found = store.outcome(id, before).await.expect("outcome");
        assert_eq!(found, Some(position), "a commit must be found by its name");
        // What was known before it may be of a longer history that was lost.
        let longer = Revision(last.revision.0 + 1000);
        let found = store.outcome(id, longer).await.expect("outcome");
        assert_eq!(found, Some(position), "a commit must be found wherever it is");
    }
    if store.capabilities().compare_and_swap {
        let refused = named(ids[2], "3").guarded(Guard::Absent(key("k")));
        assert!(store.commit(refused).await.is_err(), "the guard does not hold");
        assert_eq!(store.outcome(ids[2], before).await.expect("outcome"), None, "a conflict is no commit");
    }
    assert_eq!(store.outcome(ids[3], before).await.expect("outcome"), None, "it was never made");
    let late = store.commit(named(ids[3], "late")).await;
    assert!(
        matches!(late, Err(CommitError::Store(StoreError::Settled { id })) if id == ids[3]),
        "what was settled as not applied must not be applied when it arrives: {late:?}"
    );
    assert_eq!(store.head().await.expect("head").revision, last.revision, "nothing was written");
    must_commit(&*store, named(CommitId::random(), "4")).await;
    if store.capabilities().compacts {
        store.compact(last.revision).await.expect("compact");
        let forgotten = store.outcome(ids[0], before).await;
        assert!(
            matches!(forgotten, Err(StoreError::Compacted { .. }))
                || matches!(forgotten, Ok(Some(found)) if found == first),
            "a commit of a history that is not kept must not be denied: {forgotten:?}"
        );
        let since = store.head().await.expect("head").revision;
        assert_eq!(store.outcome(CommitId::random(), since).await.expect("outcome"), None);
    }
}

/// A watch from `from` must not start, or end with its first item.
pub(super) async fn must_diverge(store: &dyn StateStore, from: Position, why: &str) {
    let answer = match store.watch("", from).await {
        Ok(mut watch) => watch.next().await.unwrap_or(Err(StoreError::Closed)).map(|batch| batch.position),
        Err(error) => Err(error),
    };
    assert!(
        matches!(answer, Err(StoreError::Diverged { expected, .. }) if expected == from),
        "a watch from a position of {why} must answer Diverged, not {answer:?}"
    );
}
