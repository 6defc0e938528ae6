//! Tries again what may work the next time.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture, stream};
use orch_base::backoff::Backoff;
use orch_core::store::{Position, StateStore, StoreError, Watch};

use super::{Call, Failure, Layer, Layered};

/// Number and spacing of attempts of a [`retry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries of one call, the first included.
    pub tries: NonZeroU32,
    /// The wait before the second try; each further one is twice as long. A random part of up to a half is
    /// taken off, so that many callers do not come back in the same moment.
    pub first_wait: Duration,
    /// No wait is longer.
    pub longest_wait: Duration,
}

impl Default for Retry {
    /// Some ten seconds, which a server needs for its restart.
    fn default() -> Self {
        Self {
            tries: const { NonZeroU32::new(10).expect("not zero") },
            first_wait: Duration::from_millis(25),
            longest_wait: Duration::from_secs(4),
        }
    }
}

/// A store that tries a call again when its error says that this may help ([`StoreError::is_retryable`]). A
/// commit is left alone when it may have happened all the same: only who made it knows whether twice is as
/// good as once. A watch that breaks goes on after the last batch that it delivered.
#[must_use]
pub fn retry(store: Arc<dyn StateStore>, policy: Retry) -> Arc<dyn StateStore> {
    Layered::over(store, policy)
}

impl Retry {
    fn backoff(&self) -> Backoff {
        Backoff::new(self.first_wait, self.longest_wait)
    }

    fn tries_again(&self, error: &StoreError, done: u32) -> bool {
        error.is_retryable() && !error.outcome_unknown() && done < self.tries.get()
    }
}

#[async_trait]
impl Layer for Retry {
    async fn around<'a, T: Send + 'a, E: Failure>(
        &'a self,
        call: Call<'a>,
        run: impl Fn() -> BoxFuture<'a, Result<T, E>> + Send + Sync + 'a,
    ) -> Result<T, E> {
        let (mut done, mut backoff) = (0, self.backoff());
        loop {
            let answer = run().await;
            done += 1;
            match answer.as_ref().err().and_then(Failure::of_store) {
                Some(error) if self.tries_again(error, done) => {
                    tracing::debug!(store = call.store, operation = call.operation.as_str(), done, %error, "trying again");
                    pause(&mut backoff).await;
                }
                _ => return answer,
            }
        }
    }

    fn watching(&self, store: &Arc<dyn StateStore>, prefix: &str, from: Position, watch: Watch) -> Watch {
        let again = Again {
            store: Arc::clone(store),
            policy: self.clone(),
            prefix: prefix.into(),
            after: from,
            watch,
            failures: 0,
            backoff: self.backoff(),
        };
        let items = stream::unfold(Some(again), |again| async {
            let mut again = again?;
            let item = again.next().await?;
            let goes_on = item.is_ok();
            Some((item, goes_on.then_some(again)))
        });
        items.boxed()
    }
}

/// A watch that survives the one below it.
struct Again {
    store: Arc<dyn StateStore>,
    policy: Retry,
    prefix: Box<str>,
    /// Everything up to here was delivered.
    after: Position,
    watch: Watch,
    /// In a row, without a batch in between.
    failures: u32,
    backoff: Backoff,
}

impl Again {
    async fn next(&mut self) -> Option<Result<orch_core::store::WatchBatch, StoreError>> {
        loop {
            let error = match self.watch.next().await? {
                Ok(batch) => {
                    (self.after, self.failures) = (batch.position, 0);
                    self.backoff.reset();
                    return Some(Ok(batch));
                }
                Err(error) => error,
            };
            self.failures += 1;
            if !self.policy.tries_again(&error, self.failures) {
                return Some(Err(error));
            }
            pause(&mut self.backoff).await;
            self.watch = match self.store.watch(&self.prefix, self.after).await {
                Ok(watch) => watch,
                // Counted like a watch that broke at once.
                Err(error) => stream::iter([Err(error)]).boxed(),
            };
        }
    }
}

/// Waits for the next attempt.
async fn pause(backoff: &mut Backoff) {
    tokio::time::sleep(backoff.next_jittered(RandomState::new().hash_one(0))).await;
}
