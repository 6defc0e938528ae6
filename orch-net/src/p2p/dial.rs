//! Keeps trying to connect to one peer while there is no connection with it.

use std::{sync::Arc, time::Duration};

use orch_core::transport::PeerId;
use tokio::{sync::watch, time::Instant};
use tracing::debug;

use super::{config::Address, handshake, peers::random, shared::Shared};

/// Ends when the peer is no longer allowed.
pub(super) async fn keep_dialling(
    shared: Arc<Shared>,
    peer: PeerId,
    addresses: Vec<Address>,
    mut linked: watch::Receiver<bool>,
) {
    let (min, max) = (shared.peers.config().reconnect_min, shared.peers.config().reconnect_max);
    let mut backoff = Backoff::new(min, max);
    let mut is_linked = *linked.borrow_and_update();
    for address in addresses.iter().cycle() {
        if !is_linked {
            is_linked = tokio::select! {
                // It connected from its side.
                changed = linked.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                dialled = handshake::dial(&shared, peer, address) => match dialled {
                    Ok(()) => true,
                    Err(error) => {
                        debug!(%peer, %address, %error, "an attempt to connect failed");
                        shared.peers.failed(peer, format!("{address}: {error}"));
                        false
                    }
                },
            };
        }
        if is_linked {
            let began = Instant::now();
            if linked.wait_for(|linked| !linked).await.is_err() {
                return;
            }
            if began.elapsed() >= max {
                backoff = Backoff::new(min, max);
            }
        }
        // Also after a connection: who restarts is not there at once, and one who takes connections only to end them
        // must not be dialled without pause.
        let wait = tokio::time::timeout(backoff.next(random()), linked.wait_for(|linked| *linked));
        is_linked = match wait.await {
            Ok(Ok(_)) => true,
            Ok(Err(_)) => return,
            Err(_) => false,
        };
    }
}

/// How long to wait between attempts: twice as long each time, and by chance up to half of it less, so that members who
/// lost each other at one moment do not meet at one moment for ever.
#[derive(Debug)]
struct Backoff {
    wait: Duration,
    max: Duration,
}

impl Backoff {
    fn new(min: Duration, max: Duration) -> Self {
        Self { wait: min, max }
    }

    fn next(&mut self, random: u64) -> Duration {
        let wait = self.wait;
        self.wait = wait.saturating_mul(2).min(self.max);
        let half = wait / 2;
        let share = u32::try_from(random % 1024).unwrap_or(0);
        half + half * share / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_cap_and_differ() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(100), millis(350));
        assert_eq!(backoff.next(0), millis(50));
        assert_eq!(backoff.next(512), millis(150));
        assert_eq!(backoff.next(0), millis(175));
        assert!(backoff.next(u64::MAX) > millis(340));
        assert!(backoff.next(u64::MAX) < millis(350));
    }
}
