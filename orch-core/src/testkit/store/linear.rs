//! Linearizability of sixteen writers.
//!
//! Every value is written by one attempt only, so that a watch over all records proves which attempts took
//! effect, and in which order. The results that the writers got are checked against that: the result of each
//! attempt, the version it was based on, and that no reader got a state older than one that was acknowledged
//! before the read began.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;

use super::{StoreHarness, key, put};
use crate::store::{CommitError, Guard, Key, Position, Revision, StateStore, StoreError, Txn};

const WRITERS: usize = 16;
/// Few keys, so that writers conflict.
const KEYS: [&str; 3] = ["r/a", "r/b", "r/c"];
/// Acknowledged commits of each writer, in each half.
const EACH: usize = 15;

/// Sixteen writers change three records by compare-and-swap. There is one order of all operations that agrees
/// with the results and the times of each writer.
pub async fn compare_and_swap_is_linearizable(harness: &dyn StoreHarness) {
    let run = Run::start(harness.open("linear").await);
    run.reached(EACH).await;
    run.check().await;
}

/// The same while the servers behind the store fail and recover ([`StoreHarness::disturb`]): no acknowledged
/// commit is lost, no rejected one takes effect, and watches continue without a gap.
pub async fn a_disturbance_loses_nothing(harness: &dyn StoreHarness) {
    let run = Run::start(harness.open("disturbed").await);
    run.reached(EACH).await;
    harness.disturb().await;
    run.reached(2 * EACH).await;
    run.check().await;
}

/// State shared by the writers of a run.
struct Run {
    store: Arc<dyn StateStore>,
    answered: Arc<[AtomicUsize; WRITERS]>,
    enough: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<Vec<Attempt>>>,
    watch: tokio::task::JoinHandle<Vec<Change>>,
}

/// Attempt of one writer, with its result.
struct Attempt {
    key: Key,
    asked: Instant,
    answered: Instant,
    what: What,
}

enum What {
    Read { version: Option<Revision>, value: Option<String> },
    Swap { from: Option<Revision>, value: String, outcome: Outcome },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done(Revision),
    Refused,
    Unknown,
}

/// One version of a record, as the watch delivered it.
struct Change {
    key: Key,
    revision: Revision,
    value: String,
}

impl Run {
    fn start(store: Arc<dyn StateStore>) -> Self {
        let answered = Arc::new([const { AtomicUsize::new(0) }; WRITERS]);
        let enough = Arc::new(AtomicBool::new(false));
        let watch = tokio::spawn(watch_all(Arc::clone(&store)));
        let writers = (0..WRITERS).map(|number| {
            let (store, answered, enough) = (Arc::clone(&store), Arc::clone(&answered), Arc::clone(&enough));
            tokio::spawn(async move {
                let mut attempts = Vec::new();
                while !enough.load(Ordering::Relaxed) {
                    if step(&*store, number, &mut attempts).await {
                        answered[number].fetch_add(1, Ordering::Relaxed);
                    }
                    // A store that never waits must not keep the others from running.
                    tokio::task::yield_now().await;
                }
                attempts
            })
        });
        let writers = writers.collect();
        Self { store, answered, enough, writers, watch }
    }

    /// Waits until each writer has `count` acknowledged commits.
    async fn reached(&self, count: usize) {
        while self.answered.iter().any(|answered| answered.load(Ordering::Relaxed) < count) {
            let ended = self.writers.iter().any(tokio::task::JoinHandle::is_finished);
            assert!(!ended, "a writer panicked: what it said is above");
            assert!(!self.watch.is_finished(), "the watch panicked: what it said is above");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn check(self) {
        self.enough.store(true, Ordering::Relaxed);
        let mut attempts = Vec::new();
        for writer in self.writers {
            attempts.extend(writer.await.expect("a writer must not panic"));
        }
        // The last change, which proves that the watch has delivered all others.
        while self.store.commit(Txn::of(vec![put("r/end", "end")])).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
        let changes = self.watch.await.expect("the watch must not panic");
        agree(&attempts, &changes);
    }
}

/// Pause between retries while the store is unavailable.
const PAUSE: Duration = Duration::from_millis(20);

/// Reads a record and swaps it. Returns whether the swap was applied.
async fn step(store: &dyn StateStore, writer: usize, attempts: &mut Vec<Attempt>) -> bool {
    let key = key(KEYS[(writer + attempts.len()) % KEYS.len()]);
    let asked = Instant::now();
    let seen = match store.get(&key).await {
        Ok(seen) => seen,
        Err(error) => {
            must_be_passing(&error);
            tokio::time::sleep(PAUSE).await;
            return false;
        }
    };
    let version = seen.as_ref().map(|entry| entry.version);
    let from = version.map(|version| version.revision);
    let value = seen.map(|entry| String::from_utf8_lossy(&entry.value).into_owned());
    let what = What::Read { version: from, value };
    attempts.push(Attempt { key: key.clone(), asked, answered: Instant::now(), what });

    let value = format!("{writer}-{}", attempts.len());
    let guard = match version {
        Some(version) => Guard::Version(key.clone(), version),
        None => Guard::Absent(key.clone()),
    };
    let asked = Instant::now();
    let outcome = match store.commit(Txn::of(vec![put(key.as_str(), &value)]).guarded(guard)).await {
        Ok(position) => Outcome::Done(position.revision),
        Err(CommitError::Conflict { .. } | CommitError::Contention { .. }) => Outcome::Refused,
        Err(CommitError::Store(error)) => {
            must_be_passing(&error);
            if error.outcome_unknown() { Outcome::Unknown } else { Outcome::Refused }
        }
    };
    let what = What::Swap { from, value, outcome };
    attempts.push(Attempt { key, asked, answered: Instant::now(), what });
    if outcome == Outcome::Unknown {
        tokio::time::sleep(PAUSE).await;
    }
    matches!(outcome, Outcome::Done(_))
}

fn must_be_passing(error: &StoreError) {
    let passes = error.is_retryable() || error.outcome_unknown();
    assert!(passes, "a store that is disturbed must say that trying again may help: {error:?}");
}

/// Every change, over as many watches as necessary.
async fn watch_all(store: Arc<dyn StateStore>) -> Vec<Change> {
    let (mut changes, mut after) = (Vec::new(), Position::ZERO);
    loop {
        let mut watch = match store.watch("r/", after).await {
            Ok(watch) => watch,
            Err(error) => {
                must_be_passing(&error);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        while let Some(item) = watch.next().await {
            let batch = match item {
                Ok(batch) => batch,
                Err(error) => {
                    must_be_passing(&error);
                    break;
                }
            };
            let position = batch.position;
            assert!(position.revision > after.revision, "revision {position} came after {after}");
            after = position;
            for write in batch.writes {
                if write.key.as_str() == "r/end" {
                    return changes;
                }
                let value = write.value.expect("nobody deletes");
                let value = String::from_utf8_lossy(&value).into_owned();
                changes.push(Change { key: write.key, revision: after.revision, value });
            }
        }
    }
}

/// Panics when the attempts contradict the changes.
fn agree(attempts: &[Attempt], changes: &[Change]) {
    // Writer of each value, and predecessor of each change.
    let mut by_value: BTreeMap<&str, (&Change, Option<Revision>)> = BTreeMap::new();
    let mut last: BTreeMap<&Key, Revision> = BTreeMap::new();
    for change in changes {
        let before = last.insert(&change.key, change.revision);
        let twice = by_value.insert(&change.value, (change, before));
        assert!(twice.is_none(), "{} was written twice", change.value);
    }
    for attempt in attempts {
        match &attempt.what {
            What::Read { version: None, .. } => {}
            What::Read { version, value } => {
                let found = by_value.get(value.as_deref().unwrap_or_default());
                let written = found.map(|(change, _)| change.revision);
                assert_eq!(written, *version, "{value:?} was read with a revision that did not write it");
            }
            What::Swap { from, value, outcome } => {
                let found = by_value.get(value.as_str()).copied();
                match (outcome, found) {
                    (Outcome::Done(revision), Some((change, _))) => assert_eq!(
                        (change.revision, &change.key),
                        (*revision, &attempt.key),
                        "{value} was answered with another revision"
                    ),
                    (Outcome::Done(revision), None) => panic!("{value} of revision {revision} was lost"),
                    (Outcome::Refused, Some(_)) => panic!("{value} was refused and happened all the same"),
                    (Outcome::Refused | Outcome::Unknown, None) | (Outcome::Unknown, Some(_)) => {}
                }
                if let Some((_, before)) = found {
                    assert_eq!(before, *from, "{value} wrote over something that it had not seen");
                }
            }
        }
    }
    agree_in_time(attempts);
}

/// Checks that no attempt got or was based on a state older than one that was acknowledged before the attempt
/// began.
fn agree_in_time(attempts: &[Attempt]) {
    let mut over: Vec<_> =
        attempts.iter().filter_map(|attempt| Some((attempt, attempt.reached()?))).collect();
    let mut asked = over.clone();
    over.sort_by_key(|(attempt, _)| attempt.answered);
    asked.sort_by_key(|(attempt, _)| attempt.asked);
    let mut over = over.into_iter().peekable();
    let mut newest: BTreeMap<&Key, Revision> = BTreeMap::new();
    for (attempt, reached) in asked {
        while let Some((earlier, revision)) = over.next_if(|(earlier, _)| earlier.answered < attempt.asked) {
            let known = newest.entry(&earlier.key).or_default();
            *known = (*known).max(revision);
        }
        let known = newest.get(&attempt.key).copied().unwrap_or_default();
        let enough = match attempt.what {
            What::Read { .. } => reached >= known,
            What::Swap { .. } => reached > known,
        };
        assert!(enough, "{} was at {known}, and afterwards somebody was given {reached}", attempt.key);
    }
}

impl Attempt {
    /// Revision of the record that the attempt read or wrote.
    fn reached(&self) -> Option<Revision> {
        match self.what {
            What::Read { version, .. } => Some(version.unwrap_or_default()),
            What::Swap { outcome: Outcome::Done(revision), .. } => Some(revision),
            What::Swap { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64, begin: Instant) -> Instant {
        begin + Duration::from_millis(millis)
    }

    fn swap(begin: Instant, times: (u64, u64), from: Option<u64>, value: &str, outcome: Outcome) -> Attempt {
        let what = What::Swap { from: from.map(Revision), value: value.into(), outcome };
        Attempt { key: key("r/a"), asked: at(times.0, begin), answered: at(times.1, begin), what }
    }

    fn read(begin: Instant, times: (u64, u64), seen: Option<(u64, &str)>) -> Attempt {
        let version = seen.map(|(version, _)| Revision(version));
        let what = What::Read { version, value: seen.map(|(_, value)| value.into()) };
        Attempt { key: key("r/a"), asked: at(times.0, begin), answered: at(times.1, begin), what }
    }

    fn changes(list: &[(u64, &str)]) -> Vec<Change> {
        let change = |(revision, value): &(u64, &str)| Change {
            key: key("r/a"),
            revision: Revision(*revision),
            value: (*value).into(),
        };
        list.iter().map(change).collect()
    }

    /// Message of the check, if it fails.
    fn complaint(attempts: &[Attempt], seen: &[(u64, &str)]) -> Option<String> {
        let changes = changes(seen);
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| agree(attempts, &changes)));
        checked.err().map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default())
    }

    #[test]
    fn a_true_history_is_accepted_and_each_lie_is_named() {
        let t = Instant::now();
        let done = |revision| Outcome::Done(Revision(revision));
        let truth = || {
            vec![
                swap(t, (0, 1), None, "x", done(1)),
                read(t, (2, 3), Some((1, "x"))),
                swap(t, (4, 9), Some(1), "y", Outcome::Unknown),
                swap(t, (4, 5), Some(1), "z", Outcome::Refused),
                read(t, (4, 6), Some((1, "x"))),
                read(t, (7, 8), Some((2, "y"))),
            ]
        };
        let seen = [(1, "x"), (2, "y")];
        assert_eq!(complaint(&truth(), &seen), None);
        let with = |more: Attempt| truth().into_iter().chain([more]).collect();
        for (attempts, seen, says) in [
            (with(swap(t, (9, 10), Some(2), "lost", done(3))), &seen[..], "was lost"),
            (truth(), &[(1, "x"), (2, "z")], "happened all the same"),
            (with(swap(t, (9, 10), Some(1), "w", done(3))), &[(1, "x"), (2, "y"), (3, "w")], "had not seen"),
            (with(read(t, (9, 10), Some((1, "x")))), &seen, "somebody was given 1"),
            (with(read(t, (9, 10), None)), &seen, "somebody was given 0"),
            (with(read(t, (9, 10), Some((2, "x")))), &seen, "did not write it"),
            (truth(), &[(1, "x"), (2, "y"), (3, "y")], "written twice"),
        ] {
            let complaint = complaint(&attempts, seen).expect("a lie must be noticed");
            assert!(complaint.contains(says), "{complaint:?} should say {says:?}");
        }
    }
}
