//! Between the store and a transport: one task carries messages in, another carries them out.

use std::sync::Arc;

use orch_core::transport::{Channel, PeerId, Transport};
use tokio::task::AbortHandle;

use super::writer::{Job, Outgoing};
use crate::{crdt::segment::SEGMENT_BYTES_MAX, permits::QueuePermits};

/// Most bytes of a message beside its segments.
const FRAME_MAX: usize = 1024;

/// Why a transport cannot carry the messages of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("the {0} transport does not authenticate senders; use one that does")]
    Unauthenticated(&'static str),
    #[error(
        "the {name} transport takes messages of {max} bytes, and segments have up to {needed}; raise its limit"
    )]
    TooSmall { name: &'static str, max: usize, needed: usize },
    #[error(
        "the transport speaks for peer {transport}, and the store signs as {author}; give both the same key"
    )]
    OtherKey { transport: PeerId, author: PeerId },
}

pub(super) fn check(transport: &dyn Transport, author: PeerId) -> Result<(), Unfit> {
    let capabilities = transport.capabilities();
    let (name, max, needed) =
        (capabilities.name, capabilities.max_message_bytes, SEGMENT_BYTES_MAX + FRAME_MAX);
    if !capabilities.authenticated {
        return Err(Unfit::Unauthenticated(name));
    }
    if max < needed {
        return Err(Unfit::TooSmall { name, max, needed });
    }
    match transport.local_peer() {
        peer if peer == author => Ok(()),
        transport => Err(Unfit::OtherKey { transport, author }),
    }
}

/// Ends the carrying when it is dropped.
#[derive(Debug)]
pub(super) struct Network(AbortHandle);

impl Drop for Network {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Carries messages until the store closes or the transport does.
pub(super) fn connect(
    transport: Arc<dyn Transport>,
    channel: Channel,
    jobs: std::sync::mpsc::Sender<Job>,
    permits: QueuePermits,
    outgoing: Outgoing,
) -> Network {
    let incoming = tokio::spawn(carry_in(Arc::clone(&transport), jobs, permits));
    let network = Network(incoming.abort_handle());
    tokio::spawn(async move {
        carry_out(&*transport, channel, outgoing).await;
        // The writer has ended, and nobody takes messages any more.
        incoming.abort();
        transport.close().await;
    });
    network
}

/// Waits for permits before it takes the next message, so that a flood stays in the transport's queue.
async fn carry_in(transport: Arc<dyn Transport>, jobs: std::sync::mpsc::Sender<Job>, permits: QueuePermits) {
    while let Some(incoming) = transport.incoming().await {
        let Ok(permits) = permits.acquire(incoming.message.len()).await else { return };
        if jobs.send(Job::Receive { from: incoming.from, message: incoming.message, permits }).is_err() {
            return;
        }
    }
}

async fn carry_out(transport: &dyn Transport, channel: Channel, mut outgoing: Outgoing) {
    while let Some((peer, message, _permits)) = outgoing.recv().await {
        // An unreachable peer catches up with a later digest.
        if let Err(error) = transport.send(peer, channel, message).await {
            tracing::debug!(%peer, %error, "a message is lost");
        }
    }
}
