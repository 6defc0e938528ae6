//! Dialler of one peer: retries while there is no connection with it.

use std::sync::Arc;

use orch_base::backoff::Backoff;
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
                // The peer connected from its side.
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
                backoff.reset();
            }
        }
        // Also after a connection: a peer that restarts is not reachable at once, and one that accepts
        // connections only to close them must not be dialled without pause.
        let wait = tokio::time::timeout(backoff.next_jittered(random()), linked.wait_for(|linked| *linked));
        is_linked = match wait.await {
            Ok(Ok(_)) => true,
            Ok(Err(_)) => return,
            Err(_) => false,
        };
    }
}
