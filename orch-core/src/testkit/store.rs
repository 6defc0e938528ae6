//! Conformance suite of [`StateStore`].
//!
//! Call [`run_all`] from a test of the backend, on a multi-threaded runtime. Each case is a function of its
//! own, so that one of them can be run alone.

mod disturbances;
mod linear;
mod positions;
mod records;
mod reopen;
mod watches;

use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;

use crate::store::{CommitError, Key, Position, StateStore, StoreError, Txn, Watch, WatchBatch, Write};

pub use disturbances::{
    Disturbance, a_full_store_says_so_and_loses_nothing, a_store_that_comes_back_older_says_so,
    a_store_that_is_held_up_answers_in_time, deciders_go_on_after_a_store_came_back_older,
};
pub use linear::{a_disturbance_loses_nothing, compare_and_swap_is_linearizable};
pub use positions::{outcomes_are_settled, positions_of_another_history_are_refused};
pub use records::{
    closed_store_says_so, concurrent_writers_never_lose_an_update, conflict_writes_nothing, deletes_remove,
    guards_look_at_the_state_before, hostile_keys_stay_apart, last_write_of_a_key_wins, limits_are_enforced,
    prefixes_have_exact_edges, puts_can_be_read, revisions_increase, scans_are_ordered_and_paged,
    values_come_back_as_they_were,
};
pub use reopen::{reopening_finds_everything, reopening_keeps_watch_history};
pub use watches::{
    compaction_ends_late_watches, watches_agree_while_writers_write, watches_filter_by_prefix,
    watches_go_from_the_past_to_live, watches_of_the_future_wait,
};

/// Longer than any case takes on a slow machine, so that a hang is reported with the name of its case.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

/// Factory of the stores that the suite works on.
#[async_trait]
pub trait StoreHarness: Send + Sync {
    /// Opens the store called `name`: new and empty the first time. The suite closes it before it opens the
    /// same one again, and does that only when [`StoreHarness::reopens`].
    async fn open(&self, name: &str) -> Arc<dyn StateStore>;

    /// Whether a closed store can be opened again with its content.
    fn reopens(&self) -> bool;

    /// Whether [`StoreHarness::disturb`] does anything.
    fn disturbs(&self) -> bool {
        false
    }

    /// Disturbs the servers behind the stores while they work (restarts a server, kills one of several nodes)
    /// and returns when they are back. Stores that are open stay open.
    async fn disturb(&self) {}

    /// Faults that [`StoreHarness::begin`] can make. The suite has a case for each.
    fn disturbances(&self) -> &[Disturbance] {
        &[]
    }

    /// Begins a fault of what is behind the store called `name`, and returns when it is there.
    async fn begin(&self, what: Disturbance, name: &str) {
        let _ = (what, name);
    }

    /// Ends it. A store that belongs to one process is closed when the fault is
    /// [`Disturbance::ComesBackOlder`].
    async fn end(&self, what: Disturbance, name: &str) {
        let _ = (what, name);
    }
}

/// Runs every case that the backend's capabilities require.
///
/// # Panics
/// When the backend breaks the contract.
pub async fn run_all(harness: &dyn StoreHarness) {
    case("puts_can_be_read", puts_can_be_read(harness)).await;
    case("deletes_remove", deletes_remove(harness)).await;
    case("revisions_increase", revisions_increase(harness)).await;
    case("last_write_of_a_key_wins", last_write_of_a_key_wins(harness)).await;
    case("scans_are_ordered_and_paged", scans_are_ordered_and_paged(harness)).await;
    case("prefixes_have_exact_edges", prefixes_have_exact_edges(harness)).await;
    case("hostile_keys_stay_apart", hostile_keys_stay_apart(harness)).await;
    case("values_come_back_as_they_were", values_come_back_as_they_were(harness)).await;
    case("limits_are_enforced", limits_are_enforced(harness)).await;
    case("closed_store_says_so", closed_store_says_so(harness)).await;
    case("watches_go_from_the_past_to_live", watches_go_from_the_past_to_live(harness)).await;
    case("watches_of_the_future_wait", watches_of_the_future_wait(harness)).await;
    case("watches_filter_by_prefix", watches_filter_by_prefix(harness)).await;
    case("watches_agree_while_writers_write", watches_agree_while_writers_write(harness)).await;
    case("positions_of_another_history_are_refused", positions_of_another_history_are_refused(harness)).await;
    let capabilities = harness.open("capabilities").await.capabilities();
    if capabilities.compacts {
        case("compaction_ends_late_watches", compaction_ends_late_watches(harness)).await;
    }
    if capabilities.outcomes {
        case("outcomes_are_settled", outcomes_are_settled(harness)).await;
    }
    if capabilities.compare_and_swap {
        case("guards_look_at_the_state_before", guards_look_at_the_state_before(harness)).await;
        case("conflict_writes_nothing", conflict_writes_nothing(harness)).await;
        case("concurrent_writers_never_lose_an_update", concurrent_writers_never_lose_an_update(harness))
            .await;
        case("compare_and_swap_is_linearizable", compare_and_swap_is_linearizable(harness)).await;
        if harness.disturbs() {
            case("a_disturbance_loses_nothing", a_disturbance_loses_nothing(harness)).await;
        }
    }
    for what in harness.disturbances() {
        case(&format!("{what:?}"), disturbances::run(harness, *what)).await;
    }
    if harness.reopens() {
        case("reopening_finds_everything", reopening_finds_everything(harness)).await;
        case("reopening_keeps_watch_history", reopening_keeps_watch_history(harness)).await;
    }
}

async fn case(name: &str, run: impl Future<Output = ()>) {
    if tokio::time::timeout(CASE_TIMEOUT, Box::pin(run)).await.is_err() {
        panic!("{name}: still not done after {CASE_TIMEOUT:?}");
    }
}

fn key(text: &str) -> Key {
    Key::new(text).expect("the suite uses valid keys")
}

fn put(at: &str, value: &str) -> Write {
    Write::put(key(at), Bytes::copy_from_slice(value.as_bytes()))
}

async fn must_commit(store: &dyn StateStore, txn: Txn) -> Position {
    store.commit(txn).await.expect("a transaction without a reason to fail must be committed")
}

async fn must_put(store: &dyn StateStore, at: &str, value: &str) -> Position {
    must_commit(store, Txn::of(vec![put(at, value)])).await
}

async fn value_of(store: &dyn StateStore, at: &str) -> Option<String> {
    let entry = store.get(&key(at)).await.expect("get must answer")?;
    Some(String::from_utf8(entry.value.to_vec()).expect("the suite stores texts"))
}

async fn next(watch: &mut Watch) -> WatchBatch {
    let item = watch.next().await.expect("a watch must not end while its store is open");
    item.expect("a watch must not fail without a reason")
}

async fn take(watch: &mut Watch, count: usize) -> Vec<WatchBatch> {
    let mut batches = Vec::with_capacity(count);
    while batches.len() < count {
        batches.push(next(watch).await);
    }
    batches
}

#[track_caller]
fn assert_closed<T: Debug>(what: &str, result: &Result<T, StoreError>) {
    assert!(
        matches!(result, Err(StoreError::Closed)),
        "{what} of a closed store must answer Closed, not {result:?}"
    );
}

#[track_caller]
fn assert_too_large<T: Debug>(what: &str, result: &Result<T, CommitError>) {
    assert!(
        matches!(result, Err(CommitError::Store(StoreError::TooLarge { .. }))),
        "{what} must answer TooLarge, not {result:?}"
    );
}
