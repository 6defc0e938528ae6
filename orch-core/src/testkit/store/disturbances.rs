//! Stores whose servers, disks and neighbours misbehave.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;

use super::{StoreHarness, key, must_commit, must_put, next, positions::must_diverge, put, value_of};
use crate::{
    consensus::{Consensus, StoreConsensus},
    store::{
        CommitError, CommitId, Entry, Guard, Position, ReplicatedStore, StateStore, StoreCapabilities,
        StoreError, Txn, Watch, Write,
    },
};

/// Fault of what is behind a store. A harness begins and ends it ([`StoreHarness::begin`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disturbance {
    /// At its end the store's content is what it was at its beginning: a backup was restored, or a standby
    /// took over that was behind.
    ComesBackOlder,
    /// From its beginning to its end there is space for less than 64 MiB.
    Full,
    /// From its beginning to its end nothing behind the store answers.
    Slow,
    /// From its beginning to its end another program holds a lock that commits need.
    Locked,
}

/// Answers of a store that is held up must come within this time.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// A store that came back older gives no position of its lost history to another commit: guards with one do
/// not hold, and watches from one, also those that run, end with [`StoreError::Diverged`].
pub async fn a_store_that_comes_back_older_says_so(harness: &dyn StoreHarness) {
    come_back_older(harness).await;
}

/// The capabilities of the store.
async fn come_back_older(harness: &dyn StoreHarness) -> StoreCapabilities {
    let what = Disturbance::ComesBackOlder;
    let first = harness.open("older").await;
    let capabilities = first.capabilities();
    let kept = must_put(&*first, "k", "kept").await;
    must_put(&*first, "untouched", "kept").await;
    harness.begin(what, "older").await;
    let mut watch = first.watch("", kept).await.expect("watch");
    let id = CommitId::random();
    for n in 1..=4 {
        must_put(&*first, "k", &format!("lost {n}")).await;
    }
    let lost = must_commit(&*first, Txn::of(vec![put("k", "lost 5")]).named(id)).await;
    while next(&mut watch).await.position != lost {}
    if !capabilities.shared {
        first.close().await.expect("close");
    }
    harness.end(what, "older").await;
    let second = harness.open("older").await;
    // As many commits as were lost, and then some: the new history reaches and passes the old one.
    let mut now = Position::ZERO;
    for n in 1..=7 {
        now = patiently(|| second.commit(Txn::of(vec![put("k", &format!("new {n}"))]))).await;
        let all = if capabilities.shared { vec![&first, &second] } else { vec![&second] };
        for store in all {
            let guarded = Txn::of(vec![put("k", "wrong")]).guarded(Guard::Version(key("k"), lost));
            let refused = refusal(&**store, guarded).await;
            assert!(
                matches!(refused, CommitError::Conflict { .. }),
                "the position of a lost commit must not hold: {refused:?}"
            );
        }
    }
    assert_eq!(value_of(&*second, "k").await.as_deref(), Some("new 7"));
    must_diverge(&*second, lost, "a lost history").await;
    if capabilities.shared {
        must_diverge(&*first, lost, "a lost history").await;
        must_end_with_divergence(watch, lost).await;
    }
    if capabilities.outcomes {
        let found = second.outcome(id, kept.revision).await;
        assert!(!matches!(found, Ok(Some(_))), "a lost commit must not be found: {found:?}");
    }
    // What is there goes on.
    let Entry { version, .. } = second.get(&key("untouched")).await.expect("get").expect("kept");
    let change =
        Txn::of(vec![put("untouched", "changed")]).guarded(Guard::Version(key("untouched"), version));
    let mut watch = second.watch("", now).await.expect("watch");
    let changed = must_commit(&*second, change).await;
    assert_eq!(next(&mut watch).await.position, changed);
    capabilities
}

/// Two members that decide over a store which comes back older ([`StoreConsensus`]) go on from what is there,
/// agree, and say that something is lost; what was decided after the loss stays.
pub async fn deciders_go_on_after_a_store_came_back_older(harness: &dyn StoreHarness) {
    let what = Disturbance::ComesBackOlder;
    let (one, two) = (Decider::start(harness, "one").await, Decider::start(harness, "two").await);
    one.put("kept").await;
    two.put("kept too").await;
    harness.begin(what, "deciders").await;
    for n in 0..5 {
        one.put(&format!("lost {n}")).await;
    }
    let before = one.all().await;
    assert_eq!(before.len(), 7);
    harness.end(what, "deciders").await;
    // As many as were lost, and more, by the member that may have seen less.
    for n in 0..7 {
        two.put(&format!("after {n}")).await;
        one.put(&format!("beside {n}")).await;
    }
    let late = Decider::start(harness, "late").await;
    let all = late.all().await;
    assert_eq!([one.all().await, two.all().await], [all.clone(), all.clone()], "the members disagree");
    for n in 0..7 {
        for name in [format!("after {n}"), format!("beside {n}")] {
            assert!(all.contains(&name), "{name:?} was acknowledged after the loss: {all:?}");
        }
    }
    assert!(!all.contains(&String::from("lost 0")), "the harness did not take the store back: {all:?}");
    let lost = one.consensus.status().lost_history;
    assert!(lost.is_some_and(|lost| lost.times >= 1), "the loss must be told: {lost:?}");
    assert_eq!(late.consensus.status().lost_history, None, "who has seen nothing has lost nothing");
    for decider in [one, two, late] {
        decider.consensus.shutdown().await;
    }
}

/// A member that decides over the store called `deciders`.
struct Decider {
    consensus: Arc<StoreConsensus>,
    records: ReplicatedStore,
}

impl Decider {
    async fn start(harness: &dyn StoreHarness, name: &str) -> Self {
        let consensus = Arc::new(StoreConsensus::named(harness.open("deciders").await, name));
        let group: Arc<dyn Consensus> = Arc::<StoreConsensus>::clone(&consensus);
        let records = ReplicatedStore::start(group).await.expect("a member must start");
        Self { consensus, records }
    }

    /// Puts a record that nobody else puts, again where the first time was lost or is not known.
    async fn put(&self, name: &str) {
        let write = || Txn::of(vec![put(name, "")]);
        loop {
            match self.records.commit(write()).await {
                Ok(_) => return,
                Err(CommitError::Store(error)) if error.is_retryable() || error.outcome_unknown() => {}
                Err(error) => panic!("a failure that does not pass: {}", with_causes(&error)),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn all(&self) -> Vec<String> {
        let page = patiently(|| self.records.scan("", None, 100)).await;
        page.entries.iter().map(|entry| entry.key.to_string()).collect()
    }
}

async fn must_end_with_divergence(mut watch: Watch, lost: Position) {
    match watch.next().await {
        Some(Err(StoreError::Diverged { .. })) => {}
        other => {
            panic!("a watch that delivered {lost} of a lost history must end with Diverged, not {other:?}")
        }
    }
}

/// A full store names that, keeps what it acknowledged, and goes on when there is space (where it stopped, it
/// does when it is opened again).
pub async fn a_full_store_says_so_and_loses_nothing(harness: &dyn StoreHarness) {
    const VALUE_BYTES: usize = 64 << 10;
    const TRIES: usize = (64 << 20) / VALUE_BYTES + 1;
    let store = harness.open("full").await;
    must_put(&*store, "before", "kept").await;
    harness.begin(Disturbance::Full, "full").await;
    let name = |n: usize| format!("fill/{n:04}");
    let fill = |n: usize| Txn::of(vec![Write::put(key(&name(n)), vec![b'x'; VALUE_BYTES])]);
    let (mut acknowledged, mut failure) = (0, None);
    while acknowledged < TRIES && failure.is_none() {
        match store.commit(fill(acknowledged)).await {
            Ok(_) => acknowledged += 1,
            Err(error) => failure = Some(error),
        }
    }
    let failure = failure.expect("a store without space must not acknowledge");
    let said = with_causes(&failure);
    assert!(
        ["full", "space", "memory"].iter().any(|word| said.contains(word)),
        "a full store must say that it is full: {said}"
    );
    // Deleting may be refused, and must not do harm.
    let _ = store.commit(Txn::of(vec![Write::delete(key("before"))])).await;
    let deleted = store.get(&key("before")).await;
    harness.end(Disturbance::Full, "full").await;
    let store = match harness.reopens() {
        true => {
            let _ = store.close().await;
            harness.open("full").await
        }
        false => store,
    };
    for n in 0..acknowledged {
        let at = key(&name(n));
        let entry = patiently(|| store.get(&at)).await;
        let whole = entry.is_some_and(|entry| entry.value.len() == VALUE_BYTES);
        assert!(whole, "{} was acknowledged", name(n));
    }
    if let Ok(None) = deleted {
        assert_eq!(value_of(&*store, "before").await, None, "a deletion that was visible must last");
    }
    patiently(|| store.commit(fill(acknowledged))).await;
}

/// A store that is held up, by `what`, answers within a minute that it is; what it refused did not happen,
/// and what it does not know is settled afterwards.
pub async fn a_store_that_is_held_up_answers_in_time(harness: &dyn StoreHarness, what: Disturbance) {
    let store = harness.open("held_up").await;
    let before = must_put(&*store, "k", "before").await.revision;
    harness.begin(what, "held_up").await;
    let id = CommitId::random();
    let commit = store.commit(Txn::of(vec![put("k", "meanwhile")]).named(id));
    let answer = tokio::time::timeout(LONGEST_ANSWER, commit).await;
    harness.end(what, "held_up").await;
    let answer = answer.unwrap_or_else(|_| panic!("{what:?}: no answer within {LONGEST_ANSWER:?}"));
    let happened = match answer {
        Ok(_) => true,
        Err(CommitError::Store(error)) if error.outcome_unknown() && store.capabilities().outcomes => {
            patiently(|| store.outcome(id, before)).await.is_some()
        }
        Err(CommitError::Store(error)) if error.is_retryable() && !error.outcome_unknown() => false,
        Err(CommitError::Contention { .. }) => false,
        Err(error) => panic!("{what:?}: must be told as something that passes: {error:?}"),
    };
    patiently(|| store.commit(Txn::of(vec![put("after", "")]))).await;
    let expected = if happened { "meanwhile" } else { "before" };
    assert_eq!(value_of(&*store, "k").await.as_deref(), Some(expected), "{what:?}");
}

/// The answer, once what passes has passed.
async fn patiently<T, E, F>(mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
    CommitError: From<E>,
{
    loop {
        match call().await.map_err(CommitError::from) {
            Ok(answer) => return answer,
            Err(CommitError::Contention { .. }) => {}
            Err(CommitError::Store(error)) if error.is_retryable() => {}
            Err(error) => panic!("a failure that does not pass: {}", with_causes(&error)),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The error of a commit that must not be applied.
async fn refusal(store: &dyn StateStore, txn: Txn) -> CommitError {
    loop {
        match store.commit(txn.clone()).await {
            Ok(position) => panic!("it was applied at {position:?}"),
            Err(CommitError::Store(error)) if error.is_retryable() && !error.outcome_unknown() => {}
            Err(error) => return error,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn with_causes(error: &CommitError) -> String {
    let first: &dyn std::error::Error = error;
    let chain = std::iter::successors(Some(first), |error| error.source());
    chain.map(|error| error.to_string().to_lowercase()).collect::<Vec<_>>().join(": ")
}

/// Every case for a disturbance that the harness makes.
pub(super) async fn run(harness: &dyn StoreHarness, what: Disturbance) {
    match what {
        Disturbance::ComesBackOlder => {
            if come_back_older(harness).await.shared {
                deciders_go_on_after_a_store_came_back_older(harness).await;
            }
        }
        Disturbance::Full => a_full_store_says_so_and_loses_nothing(harness).await,
        Disturbance::Slow | Disturbance::Locked => {
            a_store_that_is_held_up_answers_in_time(harness, what).await;
        }
    }
}
