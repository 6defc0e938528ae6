//! Counts and times, for dashboards.

use std::{
    fmt::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use orch_core::store::StateStore;

use super::{Call, Failure, Layer, Layered, Operation};

/// Upper ends of the classes of times, in microseconds. Beyond the last is one more class.
const CLASSES: [u64; 12] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000, 10_000_000];

/// A store that counts its calls, and where to read the counts.
#[must_use]
pub fn metered(store: Arc<dyn StateStore>) -> (Arc<dyn StateStore>, Arc<StoreMetrics>) {
    let metrics = Arc::new(StoreMetrics { store: store.capabilities().name, each: Default::default() });
    (Layered::over(store, Metered(Arc::clone(&metrics))), metrics)
}

/// Counts of calls since the layer was made. Shown as text, it is a page in the format of Prometheus:
/// `orch_store_calls_total` by operation and outcome (`ok`, `conflict`, `error`), and
/// `orch_store_call_seconds` as a histogram by operation.
#[derive(Debug)]
pub struct StoreMetrics {
    store: &'static str,
    each: [Counts; Operation::ALL.len()],
}

#[derive(Debug, Default)]
struct Counts {
    outcomes: [AtomicU64; OUTCOMES.len()],
    classes: [AtomicU64; CLASSES.len() + 1],
    microseconds: AtomicU64,
}

const OUTCOMES: [&str; 3] = ["ok", "conflict", "error"];

impl StoreMetrics {
    fn count(&self, operation: Operation, outcome: usize, took: Duration) {
        let counts = &self.each[operation as usize];
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = CLASSES.partition_point(|end| *end < took);
        for (counter, by) in
            [(&counts.outcomes[outcome], 1), (&counts.classes[class], 1), (&counts.microseconds, took)]
        {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }
}

impl fmt::Display for StoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let store = self.store;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        f.write_str("# HELP orch_store_calls_total Calls of the store by operation and outcome.\n")?;
        f.write_str("# TYPE orch_store_calls_total counter\n")?;
        let each = || Operation::ALL.iter().map(|operation| operation.as_str()).zip(&self.each);
        for (operation, counts) in each() {
            for (outcome, count) in OUTCOMES.iter().zip(&counts.outcomes) {
                let labels =
                    format_args!("store=\"{store}\",operation=\"{operation}\",outcome=\"{outcome}\"");
                writeln!(f, "orch_store_calls_total{{{labels}}} {}", read(count))?;
            }
        }
        f.write_str("# HELP orch_store_call_seconds How long calls of the store took.\n")?;
        f.write_str("# TYPE orch_store_call_seconds histogram\n")?;
        for (operation, counts) in each() {
            let labels = format!("store=\"{store}\",operation=\"{operation}\"");
            let mut sum = 0;
            for (class, count) in counts.classes.iter().enumerate() {
                sum += read(count);
                let mut end = String::from("+Inf");
                if let Some(micros) = CLASSES.get(class) {
                    end.clear();
                    write!(end, "{}", Duration::from_micros(*micros).as_secs_f64())?;
                }
                writeln!(f, "orch_store_call_seconds_bucket{{{labels},le=\"{end}\"}} {sum}")?;
            }
            let seconds = Duration::from_micros(read(&counts.microseconds)).as_secs_f64();
            writeln!(f, "orch_store_call_seconds_sum{{{labels}}} {seconds}")?;
            writeln!(f, "orch_store_call_seconds_count{{{labels}}} {sum}")?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Metered(Arc<StoreMetrics>);

#[async_trait]
impl Layer for Metered {
    async fn around<'a, T: Send + 'a, E: Failure>(
        &'a self,
        call: Call<'a>,
        run: impl Fn() -> BoxFuture<'a, Result<T, E>> + Send + Sync + 'a,
    ) -> Result<T, E> {
        let begin = Instant::now();
        let answer = run().await;
        let outcome = match answer.as_ref().err().map(Failure::of_store) {
            None => 0,
            Some(None) => 1,
            Some(Some(_)) => 2,
        };
        self.0.count(call.operation, outcome, begin.elapsed());
        answer
    }
}
