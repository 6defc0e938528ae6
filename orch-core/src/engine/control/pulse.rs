//! [`Pulse`]: whether this process was held up, suspended or starved.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Beats on its own while other work waits for a store or the network, which says nothing about this process.
#[derive(Debug)]
pub(super) struct Pulse {
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    last: Instant,
    missed: bool,
}

impl Pulse {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, state: Mutex::new(State { last: Instant::now(), missed: false }) }
    }

    /// Never returns.
    pub(super) async fn run(&self) {
        loop {
            tokio::time::sleep(self.every).await;
            let mut state = self.state();
            state.missed |= self.is_late(&state);
            state.last = Instant::now();
        }
    }

    /// Whether it was since the last question.
    pub(super) fn was_held_up(&self) -> bool {
        let mut state = self.state();
        let late = self.is_late(&state);
        std::mem::take(&mut state.missed) || late
    }

    fn is_late(&self, state: &State) -> bool {
        state.last.elapsed() > self.every * 2
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_no_hold_up_and_a_stop_is() {
        let pulse = Pulse::new(Duration::from_secs(1));
        tokio::select! {
            () = pulse.run() => unreachable!("it beats"),
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
        assert!(!pulse.was_held_up(), "others waited for long, and it went on");
        // Nothing is polled meanwhile.
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(pulse.was_held_up(), "before it could beat");
        let beats = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
        };
        tokio::select! {
            () = pulse.run() => unreachable!("it beats"),
            () = beats => {}
        }
        assert!(pulse.was_held_up(), "the beat after the stop has noted it");
        assert!(!pulse.was_held_up(), "once");
    }
}
