//! Layers around a store that fails by a script, and the conformance suite through all of them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use orch_core::{
    store::{
        CommitError, CommitId, Entry, Guard, Incarnation, Key, MemoryStore, Page, Position, Revision,
        StateStore, StoreCapabilities, StoreError, Txn, Watch, Write,
    },
    testkit::store::{StoreHarness, run_all},
};
use orch_store::layers::{self, Chaos, Retry};

/// Reaction of the scripted store to a call.
#[derive(Clone, Copy, Debug)]
enum Step {
    Pass,
    Refuse {
        retryable: bool,
    },
    /// Carries the call out and says that it does not know.
    LoseAnswer,
    Hang,
    /// A watch that breaks after so many batches.
    BreakAfter(usize),
}

/// A memory store that follows a script, one step for each call, and passes when there is none left.
#[derive(Debug, Default)]
struct Scripted {
    inner: MemoryStore,
    script: Mutex<VecDeque<Step>>,
    calls: Mutex<Vec<&'static str>>,
}

#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("as the script says")
    }
}

impl std::error::Error for Broken {}

fn failure(retryable: bool, outcome_unknown: bool) -> StoreError {
    let source = Arc::new(Broken);
    StoreError::Backend { store: "scripted", operation: "testing", retryable, outcome_unknown, source }
}

impl Scripted {
    fn with(script: impl IntoIterator<Item = Step>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script.into_iter().collect()), ..Self::default() })
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    async fn step(&self, call: &'static str) -> Result<Step, StoreError> {
        self.calls.lock().unwrap().push(call);
        let step = self.script.lock().unwrap().pop_front().unwrap_or(Step::Pass);
        match step {
            Step::Refuse { retryable } => Err(failure(retryable, false)),
            Step::Hang => std::future::pending().await,
            step => Ok(step),
        }
    }
}

#[async_trait]
impl StateStore for Scripted {
    fn capabilities(&self) -> StoreCapabilities {
        self.inner.capabilities().named("scripted")
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.step("get").await?;
        self.inner.get(key).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.step("scan").await?;
        self.inner.scan(prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        let step = self.step("commit").await?;
        let done = self.inner.commit(txn).await;
        if matches!(step, Step::LoseAnswer) { Err(failure(true, true).into()) } else { done }
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        let step = self.step("watch").await?;
        let watch = self.inner.watch(prefix, from).await?;
        Ok(match step {
            Step::BreakAfter(batches) => {
                watch.take(batches).chain(stream::iter([Err(failure(true, false))])).boxed()
            }
            _ => watch,
        })
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.step("head").await?;
        self.inner.head().await
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        self.step("outcome").await?;
        self.inner.outcome(id, since).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.step("compact").await?;
        self.inner.compact(before).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.step("close").await?;
        self.inner.close().await
    }
}

fn key() -> Key {
    Key::new("secrets/name").unwrap()
}

fn put() -> Txn {
    Txn::of(vec![Write::put(key(), "hunter2")])
}

fn quick(tries: u32) -> Retry {
    Retry {
        tries: NonZeroU32::new(tries).unwrap(),
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(2),
    }
}

const AGAIN: Step = Step::Refuse { retryable: true };

#[tokio::test(start_paused = true)]
async fn retry_goes_by_the_word_of_the_error() {
    let store = Scripted::with([AGAIN, AGAIN]);
    let committed = layers::retry(store.clone(), Retry::default()).commit(put()).await.unwrap();
    assert_eq!(committed.revision, Revision(1));
    assert_eq!(store.calls(), 3);

    let store = Scripted::with([Step::Refuse { retryable: false }]);
    assert!(layers::retry(store.clone(), Retry::default()).get(&key()).await.is_err());
    assert_eq!(store.calls(), 1, "what does not help is not tried");

    let store = Scripted::with([AGAIN; 4]);
    let error = layers::retry(store.clone(), quick(3)).head().await.unwrap_err();
    assert!(error.is_retryable(), "the last error is the answer: {error}");
    assert_eq!(store.calls(), 3);

    let store = Scripted::with([]);
    let guarded = put().guarded(Guard::Version(key(), Position::new(Revision(7), Incarnation(0))));
    let lost = layers::retry(store.clone(), Retry::default()).commit(guarded).await;
    assert!(matches!(lost, Err(CommitError::Conflict { .. })));
    assert_eq!(store.calls(), 1, "a lost race is an answer");
}

#[tokio::test(start_paused = true)]
async fn retry_leaves_a_commit_alone_that_may_have_happened() {
    let store = Scripted::with([Step::LoseAnswer]);
    let Err(CommitError::Store(error)) = layers::retry(store.clone(), Retry::default()).commit(put()).await
    else {
        panic!("the answer was lost")
    };
    assert!(error.outcome_unknown());
    assert_eq!((store.calls(), store.inner.head().await.unwrap().revision), (1, Revision(1)));
}

#[tokio::test(start_paused = true)]
async fn retry_waits_longer_each_time_up_to_its_bound() {
    let policy = Retry {
        tries: NonZeroU32::new(6).unwrap(),
        first_wait: Duration::from_secs(1),
        longest_wait: Duration::from_secs(4),
    };
    let store = layers::retry(Scripted::with([AGAIN; 6]), policy);
    let begin = tokio::time::Instant::now();
    store.head().await.unwrap_err();
    // 1, 2, 4, 4 and 4 seconds, each up to a half shorter.
    let waited = begin.elapsed();
    assert!((Duration::from_millis(7_500)..=Duration::from_secs(15)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_broke() {
    let store = Scripted::with([Step::BreakAfter(2), AGAIN, Step::BreakAfter(0)]);
    for _ in 0..5 {
        store.inner.commit(put()).await.unwrap();
    }
    let watch = layers::retry(store.clone(), quick(4)).watch("", Position::ZERO).await.unwrap();
    let seen: Vec<_> = watch.take(5).map(|item| item.unwrap().position.revision.0).collect().await;
    assert_eq!(seen, [1, 2, 3, 4, 5], "once each, without a gap");
    assert_eq!(store.calls(), 4);

    let store = Scripted::with([Step::BreakAfter(0); 9]);
    let watch = layers::retry(store.clone(), quick(3)).watch("", Position::ZERO).await.unwrap();
    let items: Vec<_> = watch.collect().await;
    assert!(items.len() == 1 && items[0].is_err(), "a watch that never works ends with its error: {items:?}");
    assert_eq!(store.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn timeout_ends_a_call_and_says_what_is_known() {
    let store = layers::timeout(Scripted::with([Step::Hang, Step::Hang]), Duration::from_secs(3));
    let begin = tokio::time::Instant::now();
    let error = store.get(&key()).await.unwrap_err();
    assert_eq!(begin.elapsed(), Duration::from_secs(3));
    assert!(error.is_retryable() && !error.outcome_unknown());
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(error.to_string().contains("get") && cause.contains("within 3s"), "{error}: {cause}");
    let Err(CommitError::Store(error)) = store.commit(put()).await else { panic!("nobody answered") };
    assert!(error.outcome_unknown(), "a commit that was not answered may have happened");
    let mut watch = store.watch("", Position::ZERO).await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_secs(60), watch.next()).await.is_err(),
        "a watch may be silent"
    );
}

#[tokio::test]
async fn metrics_count_outcomes_and_times() {
    let (store, metrics) =
        layers::metered(Scripted::with([Step::Pass, Step::Pass, Step::Refuse { retryable: false }]));
    store.commit(put()).await.unwrap();
    store.commit(put().guarded(Guard::Absent(key()))).await.unwrap_err();
    store.get(&key()).await.unwrap_err();
    let page = metrics.to_string();
    for (line, count) in [
        ("orch_store_calls_total{store=\"scripted\",operation=\"commit\",outcome=\"ok\"}", 1),
        ("orch_store_calls_total{store=\"scripted\",operation=\"commit\",outcome=\"conflict\"}", 1),
        ("orch_store_calls_total{store=\"scripted\",operation=\"get\",outcome=\"error\"}", 1),
        ("orch_store_calls_total{store=\"scripted\",operation=\"scan\",outcome=\"ok\"}", 0),
        ("orch_store_call_seconds_bucket{store=\"scripted\",operation=\"commit\",le=\"+Inf\"}", 2),
        ("orch_store_call_seconds_bucket{store=\"scripted\",operation=\"commit\",le=\"10\"}", 2),
        ("orch_store_call_seconds_count{store=\"scripted\",operation=\"commit\"}", 2),
    ] {
        assert!(page.lines().any(|found| found == format!("{line} {count}")), "{line} {count} in\n{page}");
    }
}

/// Output of `tracing`, as text.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<String>>);

impl Seen {
    fn note(&self, level: &tracing::Level, record: impl FnOnce(&mut dyn tracing::field::Visit)) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut text = Text(format!("{level} "));
        record(&mut text);
        *self.0.lock().unwrap() += &format!("{}\n", text.0);
    }
}

impl tracing::Subscriber for Seen {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("orch_store")
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        self.note(span.metadata().level(), |text| span.record(text));
        tracing::span::Id::from_u64(1)
    }

    fn event(&self, event: &tracing::Event<'_>) {
        self.note(event.metadata().level(), |text| event.record(text));
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn traces_show_calls_and_failures_and_no_value() {
    let seen = Seen::default();
    let _guard = tracing::subscriber::set_default(seen.clone());
    let store = layers::traced(Scripted::with([Step::Pass, AGAIN]));
    store.commit(put()).await.unwrap();
    store.get(&key()).await.unwrap_err();
    let text = seen.0.lock().unwrap().clone();
    assert!(text.contains("DEBUG store=\"scripted\" operation=\"commit\" at=\"secrets/name\""), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("WARN") && line.contains("as the script says")),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn chaos_makes_the_same_faults_for_the_same_seed() {
    let faults = Chaos { seed: 7, refused: 200, unanswered: 200, ..Chaos::default() };
    let run = async |faults: Chaos| {
        let (below, mut outcomes) = (Scripted::with([]), Vec::new());
        let store = layers::chaos(below.clone(), faults);
        for _ in 0..200 {
            outcomes.push(match store.commit(put()).await {
                Ok(_) => 'y',
                Err(CommitError::Store(error)) if error.outcome_unknown() => '?',
                Err(_) => 'n',
            });
        }
        let happened = below.inner.head().await.unwrap().revision.0;
        let not_refused = outcomes.iter().filter(|outcome| **outcome != 'n').count() as u64;
        assert_eq!(happened, not_refused, "what is refused does not happen, what is not answered does");
        outcomes.into_iter().collect::<String>()
    };
    let first = run(faults.clone()).await;
    assert!(first.contains('y') && first.contains('n') && first.contains('?'), "{first}");
    assert_eq!(run(faults.clone()).await, first);
    assert_ne!(run(Chaos { seed: 8, ..faults }).await, first);
}

/// Fresh memory stores, each in all layers, the faults innermost.
struct AllLayers(Chaos);

#[async_trait]
impl StoreHarness for AllLayers {
    async fn open(&self, _: &str) -> Arc<dyn StateStore> {
        let store = layers::chaos(Arc::new(MemoryStore::default()), self.0.clone());
        let store = layers::timeout(store, Duration::from_secs(60));
        let store = layers::retry(store, quick(30));
        layers::metered(layers::traced(store)).0
    }

    fn reopens(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_all_layers_conforms() {
    run_all(&AllLayers(Chaos::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_now_and_then_conforms_behind_a_retry() {
    let faults = Chaos {
        seed: 1,
        refused: 150,
        broken_watches: 50,
        delayed: 20,
        longest_delay: Duration::from_millis(2),
        ..Chaos::default()
    };
    run_all(&AllLayers(faults)).await;
}
