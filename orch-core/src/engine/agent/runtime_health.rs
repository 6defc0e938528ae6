//! [`RuntimeHealth`]: whether the engine behind a runtime takes work, as an agent's calls find it. A node
//! whose engine does not answer, or where starts keep failing, would otherwise attract work: it looks idle.

use std::{sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use crate::{
    environment::Environment,
    model::clip_words,
    runtime::{RuntimeError, RuntimeErrorKind},
};

/// Clones are one.
#[derive(Clone, Debug)]
pub(super) struct RuntimeHealth(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    environment: Arc<dyn Environment>,
    state: Mutex<State>,
    away: watch::Sender<Option<String>>,
    last_error: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    /// Every call since then had no answer.
    silent_since: Option<Instant>,
    /// Starts in a row that failed through no fault of the task's.
    failed_starts: u32,
    /// Number of times that taking work was suspended since the last start that worked.
    pauses: u32,
    /// Nothing new is taken because starts fail, until a timer says so.
    paused: Option<String>,
}

impl RuntimeHealth {
    pub(super) fn new(environment: Arc<dyn Environment>) -> Self {
        let (away, last_error) = (watch::Sender::new(None), watch::Sender::new(None));
        Self(Arc::new(Inner { environment, state: Mutex::default(), away, last_error }))
    }

    /// An engine that gives no answer for less is waited for without a word.
    const AWAY: Duration = Duration::from_secs(3);
    const FAILED_STARTS: u32 = 3;
    const PAUSE: Duration = Duration::from_secs(15);
    const PAUSE_MAX: Duration = Duration::from_secs(300);

    /// Error that keeps the node from taking new work.
    pub(super) fn last_error(&self) -> Option<String> {
        self.0.last_error.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<String>> {
        self.0.last_error.subscribe()
    }

    /// Waits until the engine has been away for some time; says how that was noticed.
    pub(super) async fn away(&self) -> String {
        let mut away = self.0.away.subscribe();
        let why = away.wait_for(Option::is_some).await.map(|why| why.clone());
        match why.ok().flatten() {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// Notes what a call came to.
    pub(super) fn note<T>(&self, result: &Result<T, RuntimeError>) {
        let mut state = self.lock();
        match result {
            Err(error) if error.kind == RuntimeErrorKind::Unavailable => {
                if state.silent_since.is_none() {
                    let now = Instant::now();
                    state.silent_since = Some(now);
                    self.give_up_after(now, format!("the engine does not answer: {error}"));
                }
            }
            _ => {
                state.silent_since = None;
                self.0.away.send_if_modified(|away| away.take().is_some());
            }
        }
        self.tell(&state);
    }

    /// Calls to an engine that hangs take long to fail: one that failed, and none that is answered meanwhile,
    /// is enough.
    fn give_up_after(&self, silent_since: Instant, why: String) {
        let inner = Arc::downgrade(&self.0);
        let given_up = async move {
            tokio::time::sleep(Self::AWAY).await;
            let Some(inner) = inner.upgrade() else { return };
            let health = Self(inner);
            let state = health.lock();
            if state.silent_since == Some(silent_since) {
                health.0.away.send_replace(Some(why));
                health.tell(&state);
            }
        };
        self.0.environment.spawn(Box::pin(given_up));
    }

    /// Notes what a start came to.
    pub(super) fn note_start<T>(&self, result: &Result<T, RuntimeError>) {
        let mut state = self.lock();
        match result {
            Ok(_) => (state.failed_starts, state.pauses) = (0, 0),
            Err(error) if is_of_the_node(error.kind) => {
                state.failed_starts += 1;
                if state.failed_starts >= Self::FAILED_STARTS && state.paused.is_none() {
                    state.paused = Some(format!("starts keep failing: {error}"));
                    let pause = Self::PAUSE.saturating_mul(1 << state.pauses.min(8)).min(Self::PAUSE_MAX);
                    state.pauses += 1;
                    self.resume_after(pause);
                }
            }
            // It is about the task.
            Err(_) => {}
        }
        self.tell(&state);
    }

    /// Lets one more try show whether starts work again.
    fn resume_after(&self, pause: Duration) {
        let inner = Arc::downgrade(&self.0);
        let resumed = async move {
            tokio::time::sleep(pause).await;
            let Some(inner) = inner.upgrade() else { return };
            let health = Self(inner);
            let mut state = health.lock();
            (state.paused, state.failed_starts) = (None, Self::FAILED_STARTS - 1);
            health.tell(&state);
        };
        self.0.environment.spawn(Box::pin(resumed));
    }

    fn tell(&self, state: &State) {
        let away = self.0.away.borrow().clone();
        let mut last_error = away.or_else(|| state.paused.clone());
        last_error.iter_mut().for_each(clip_words);
        self.0.last_error.send_if_modified(|known| {
            // Words that only differ in their details are no news.
            let changed = known.is_some() != last_error.is_some();
            if changed {
                match &last_error {
                    Some(last_error) => warn!(%last_error, "the node takes no new work"),
                    None => info!("the node takes new work again"),
                }
                *known = last_error;
            }
            changed
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

fn is_of_the_node(kind: RuntimeErrorKind) -> bool {
    matches!(kind, RuntimeErrorKind::NotFound | RuntimeErrorKind::NoSpace | RuntimeErrorKind::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: RuntimeErrorKind) -> Result<(), RuntimeError> {
        Err(RuntimeError::new(kind, "no"))
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_stays_away_closes_the_node_until_it_answers() {
        let health = RuntimeHealth::new(crate::environment::System::shared());
        let mut last_error = health.watch();
        health.note(&error(RuntimeErrorKind::Unavailable));
        assert_eq!(health.last_error(), None, "a moment is waited out");
        tokio::time::sleep(RuntimeHealth::AWAY / 2).await;
        health.note(&Ok(()));
        health.note(&error(RuntimeErrorKind::Unavailable));
        let silent = Instant::now();
        last_error.wait_for(Option::is_some).await.unwrap();
        assert_eq!(silent.elapsed(), RuntimeHealth::AWAY, "though no other call has failed");
        assert!(health.away().await.contains("does not answer"));
        health.note(&error(RuntimeErrorKind::NotFound));
        assert_eq!(health.last_error(), None, "it answers");
    }

    #[tokio::test(start_paused = true)]
    async fn starts_that_keep_failing_close_the_node_for_longer_each_time() {
        let health = RuntimeHealth::new(crate::environment::System::shared());
        for _ in 0..RuntimeHealth::FAILED_STARTS {
            health.note_start(&error(RuntimeErrorKind::InvalidSpec));
        }
        assert_eq!(health.last_error(), None, "these are the tasks' own");
        for _ in 0..RuntimeHealth::FAILED_STARTS {
            assert_eq!(health.last_error(), None);
            health.note_start(&error(RuntimeErrorKind::NoSpace));
        }
        let mut last_error = health.watch();
        for factor in [1, 2] {
            assert!(health.last_error().is_some());
            let paused = Instant::now();
            last_error.wait_for(Option::is_none).await.unwrap();
            assert_eq!(paused.elapsed().as_secs(), (RuntimeHealth::PAUSE * factor).as_secs());
            health.note_start(&error(RuntimeErrorKind::NotFound));
        }
        last_error.wait_for(Option::is_none).await.unwrap();
        health.note_start(&Ok(()));
        health.note_start(&error(RuntimeErrorKind::NoSpace));
        assert_eq!(health.last_error(), None, "one that worked makes them start counting anew");
    }
}
