//! Faults on purpose, for tests of what is built on a store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture, stream};
use orch_core::store::{Position, StateStore, StoreError, Watch};

use super::{Call, Failure, Layer, Layered, Operation};

/// Faults that a [`chaos`] injects, each as a number of calls in a thousand. All zero is no fault.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Chaos {
    /// The same seed makes the same decisions, in the order in which they are asked for.
    pub seed: u64,
    /// Calls that fail before they reach the store. They may be tried again.
    pub refused: u16,
    /// Calls that are carried out and whose answer is lost. Of a commit the outcome is unknown then.
    pub unanswered: u16,
    /// Batches of watches that are replaced by a break of the watch.
    pub broken_watches: u16,
    /// Calls that wait first, for up to [`Chaos::longest_delay`].
    pub delayed: u16,
    /// The longest wait.
    pub longest_delay: Duration,
}

/// A store that fails now and then, as one behind a bad network does. It never lies: what it does answer is
/// true.
#[must_use]
pub fn chaos(store: Arc<dyn StateStore>, faults: Chaos) -> Arc<dyn StateStore> {
    let dice = Arc::new(Dice(AtomicU64::new(faults.seed)));
    Layered::over(store, Faulty { faults, dice })
}

#[derive(Debug)]
struct Faulty {
    faults: Chaos,
    dice: Arc<Dice>,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("refused on purpose")]
    Refused,
    #[error("the answer was lost on purpose")]
    Unanswered,
    #[error("the watch was broken on purpose")]
    Broken,
}

#[async_trait]
impl Layer for Faulty {
    async fn around<'a, T: Send + 'a, E: Failure>(
        &'a self,
        call: Call<'a>,
        run: impl Fn() -> BoxFuture<'a, Result<T, E>> + Send + Sync + 'a,
    ) -> Result<T, E> {
        // The end of a store is what tests tidy up with.
        if call.operation == Operation::Close {
            return run().await;
        }
        if self.dice.hits(self.faults.delayed) {
            tokio::time::sleep(self.faults.longest_delay.mul_f64(self.dice.part())).await;
        }
        if self.dice.hits(self.faults.refused) {
            return Err(call.failed(true, false, Fault::Refused).into());
        }
        let answer = run().await;
        if answer.is_ok() && self.dice.hits(self.faults.unanswered) {
            return Err(call.failed(true, true, Fault::Unanswered).into());
        }
        answer
    }

    fn watching(&self, store: &Arc<dyn StateStore>, prefix: &str, _: Position, watch: Watch) -> Watch {
        let (dice, often) = (Arc::clone(&self.dice), self.faults.broken_watches);
        let (store, prefix) = (store.capabilities().name, Box::<str>::from(prefix));
        let items = stream::unfold(Some(watch), move |watch| {
            let (dice, prefix) = (Arc::clone(&dice), prefix.clone());
            async move {
                let mut watch = watch?;
                let item = watch.next().await?;
                if item.is_ok() && dice.hits(often) {
                    let call = Call { store, operation: Operation::Watch, at: &prefix };
                    let broken: StoreError = call.failed(true, false, Fault::Broken);
                    return Some((Err(broken), None));
                }
                Some((item, Some(watch)))
            }
        });
        items.boxed()
    }
}

/// Seeded numbers (SplitMix64), shared by all calls.
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    fn next(&self) -> u64 {
        let mut mixed = self.0.fetch_add(Self::STEP, Ordering::Relaxed).wrapping_add(Self::STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn hits(&self, of_a_thousand: u16) -> bool {
        of_a_thousand > 0 && self.next() % 1000 < u64::from(of_a_thousand)
    }

    /// From zero to one.
    fn part(&self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}
