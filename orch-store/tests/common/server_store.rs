//! Suite of the stores on a server that processes share: one order for all, what one of them compacts, and a
//! server that is not there.

use std::{fs::File, num::NonZeroU64, sync::Arc};

use async_trait::async_trait;
use futures_util::{StreamExt, future::join_all};
use orch_core::{
    store::{CommitError, Guard, Position, Revision, StateStore, StoreError},
    testkit::store::StoreHarness,
};

use super::{full, key, put};

/// A store on a server, as the suite opens it.
#[async_trait]
pub(crate) trait ServerBackend: Sized + Send + Sync + 'static {
    /// Settings of a store.
    type Config: Send + Sync;

    /// Revisions are 1, 2, 3, because the server counts nothing but commits of the store.
    const DENSE: bool;

    /// Commits of each process that writes at the same time as others, and claims that are made at once.
    const COMMITS: usize = 50;
    const CLAIMS: usize = 400;

    /// Settings for a store that nobody has used yet.
    fn fresh() -> Self::Config;

    /// The same for a store whose watches rely on notifications, where that can be chosen.
    fn unpolled() -> Self::Config {
        Self::fresh()
    }

    /// Settings for a server that is not there, with a retry deadline of 300 ms.
    fn nowhere() -> Self::Config;

    /// Opens the store that the settings name.
    async fn open(config: &Self::Config) -> Result<Arc<dyn StateStore>, StoreError>;

    /// Lock of the server; see [`super::turn`].
    async fn turn(alone: bool) -> Option<File>;
}

/// A store on a server whose log is read from there.
#[async_trait]
pub(crate) trait LogOnServer: ServerBackend {
    /// Settings for a fresh store with so many revisions in its log.
    fn bounded(history: NonZeroU64) -> Self::Config;

    /// True if the log of a store at revision 100 holds exactly the revisions that may be watched; its
    /// earliest watch began at `oldest` before.
    async fn log_is_exact(config: &Self::Config, oldest: Revision) -> bool;

    /// Takes the server back to a state from before the second commit, as a restored backup would.
    async fn go_back(config: &Self::Config);
}

/// Settings of the store with a name.
type ConfigOf<B> = Box<dyn Fn(&str) -> <B as ServerBackend>::Config + Send + Sync>;

/// Stores of one run, for the conformance suite. `crash` is the command that disturbs them.
pub(crate) struct OnServer<B: ServerBackend> {
    pub(crate) config: ConfigOf<B>,
    pub(crate) crash: Option<String>,
}

#[async_trait]
impl<B: ServerBackend> StoreHarness for OnServer<B> {
    async fn open(&self, name: &str) -> Arc<dyn StateStore> {
        B::open(&(self.config)(name)).await.unwrap()
    }

    fn reopens(&self) -> bool {
        true
    }

    fn disturbs(&self) -> bool {
        self.crash.is_some()
    }

    async fn disturb(&self) {
        super::run(self.crash.as_ref().unwrap()).await;
    }
}

/// The tests of the suite, each by its name, for one backend.
macro_rules! server_store_suite {
    ($backend:ty) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn processes_share_one_order_and_observe_each_other() {
            common::server_store::processes_share_one_order::<$backend>().await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn of_many_claims_at_once_one_wins_each() {
            common::server_store::of_many_claims_at_once_one_wins_each::<$backend>().await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn what_one_process_compacts_is_compacted_for_all() {
            common::server_store::what_one_process_compacts_is_compacted_for_all::<$backend>().await;
        }

        #[tokio::test]
        async fn a_server_that_is_not_there_is_waited_for_within_bounds() {
            common::server_store::a_missing_server_is_waited_for_within_bounds::<$backend>().await;
        }
    };
}
pub(crate) use server_store_suite;

/// The tests of the suite for a backend that reads its log from the server.
macro_rules! log_on_server_suite {
    ($backend:ty) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn the_log_is_trimmed() {
            common::server_store::the_log_is_trimmed::<$backend>().await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn a_store_that_was_restored_to_an_older_state_is_noticed() {
            common::server_store::a_restored_older_state_is_noticed::<$backend>().await;
        }
    };
}
pub(crate) use log_on_server_suite;

async fn open<B: ServerBackend>(config: &B::Config) -> Arc<dyn StateStore> {
    B::open(config).await.unwrap()
}

pub(crate) async fn processes_share_one_order<B: ServerBackend>() {
    let _turn = B::turn(false).await;
    let config = B::unpolled();
    let stores = join_all((0..3).map(|_| open::<B>(&config))).await;
    assert!(stores[0].capabilities().shared);
    let mut watches = Vec::new();
    for store in &stores {
        watches.push(store.watch("", Position::ZERO).await.unwrap());
    }
    let writers = stores.iter().enumerate().flat_map(|(number, store)| {
        let commit =
            move |n| async move { store.commit(put(&format!("k/{number}/{n}"), "v")).await.unwrap() };
        (0..B::COMMITS).map(commit)
    });
    let mut positions = join_all(writers).await;
    positions.sort_by_key(|position| position.revision);
    if B::DENSE {
        let dense = (1..=3 * B::COMMITS as u64).map(Revision);
        assert!(positions.iter().map(|position| position.revision).eq(dense), "each revision is given once");
    }
    let mut observed = Vec::new();
    for watch in watches {
        observed.push(watch.take(3 * B::COMMITS).map(Result::unwrap).collect::<Vec<_>>().await);
    }
    assert!(observed[0].iter().map(|batch| batch.position).eq(positions), "in order and without a gap");
    assert!(observed.iter().all(|other| *other == observed[0]));
}

pub(crate) async fn of_many_claims_at_once_one_wins_each<B: ServerBackend>() {
    let _turn = B::turn(false).await;
    let config = B::fresh();
    let stores = join_all((0..2).map(|_| open::<B>(&config))).await;
    let claims = (0..B::CLAIMS).map(|n| {
        let (store, name) = (&stores[n % 2], format!("claims/{}", n / 4));
        let claim = put(&name, &n.to_string()).guarded(Guard::Absent(key(&name)));
        async move { store.commit(claim).await }
    });
    let outcomes = join_all(claims).await;
    for (n, four) in outcomes.chunks(4).enumerate() {
        assert_eq!(four.iter().filter(|outcome| outcome.is_ok()).count(), 1, "claim {n}: {four:?}");
        let lost = four.iter().filter(|outcome| {
            matches!(outcome, Err(CommitError::Conflict { key }) if key.as_str() == format!("claims/{n}"))
        });
        assert_eq!(lost.count(), 3, "claim {n}: {four:?}");
    }
    if B::DENSE {
        let head = stores[0].head().await.unwrap();
        assert_eq!(head.revision, Revision(B::CLAIMS as u64 / 4), "a lost claim takes no revision");
    }
}

pub(crate) async fn what_one_process_compacts_is_compacted_for_all<B: ServerBackend>() {
    let _turn = B::turn(false).await;
    let config = B::fresh();
    let (one, two) = (open::<B>(&config).await, open::<B>(&config).await);
    let mut revisions = Vec::new();
    for n in 0..10 {
        revisions.push(one.commit(put("a", &n.to_string())).await.unwrap());
    }
    drop(two.watch("", Position::ZERO).await.unwrap());
    one.compact(revisions[3].revision).await.unwrap();
    let early = two.watch("", revisions[2]).await.err();
    assert!(matches!(early, Some(StoreError::Compacted { oldest }) if oldest == revisions[3]), "{early:?}");
    assert_eq!(two.watch("", revisions[3]).await.unwrap().take(6).count().await, 6);
}

pub(crate) async fn a_missing_server_is_waited_for_within_bounds<B: ServerBackend>() {
    let error = B::open(&B::nowhere()).await.expect_err("nobody answers there");
    let text = full(&error);
    assert!(error.is_retryable() && !error.outcome_unknown(), "{text}");
    assert!(text.contains("within 300ms") && text.contains("refused") && !text.contains("hidden"), "{text}");
}

pub(crate) async fn the_log_is_trimmed<B: LogOnServer>() {
    let _turn = B::turn(false).await;
    let config = B::bounded(NonZeroU64::new(40).unwrap());
    let store = open::<B>(&config).await;
    for n in 0..100 {
        store.commit(put("a", &n.to_string())).await.unwrap();
    }
    let Some(StoreError::Compacted { oldest }) = store.watch("", Position::ZERO).await.err() else {
        panic!("the log must have been trimmed")
    };
    assert!((50..=60).contains(&oldest.revision.0), "{oldest}");
    assert!(
        B::log_is_exact(&config, oldest.revision).await,
        "what is left of the log is what may be watched"
    );
}

pub(crate) async fn a_restored_older_state_is_noticed<B: LogOnServer>() {
    let _turn = B::turn(false).await;
    let config = B::fresh();
    let store = open::<B>(&config).await;
    let watch = store.watch("", Position::ZERO).await.unwrap();
    store.commit(put("a", "1")).await.unwrap();
    store.commit(put("a", "2")).await.unwrap();
    drop(store.watch("", Position::ZERO).await.unwrap());
    B::go_back(&config).await;
    let last = watch.collect::<Vec<_>>().await.pop();
    let Some(Err(error @ StoreError::Diverged { .. })) = &last else { panic!("{last:?}") };
    assert!(error.to_string().contains("older copy"), "{error}");
}
