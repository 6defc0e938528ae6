//! Demultiplexer of one transport for several protocols: each receives the messages of its own channels.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tracing::debug;

use super::{Channel, Incoming, PeerId, Transport, TransportCapabilities, TransportError};

/// Demultiplexer of a transport's messages by channel, so that a consensus, a store and other protocols can
/// share it. Clones share the same transport. Nobody else may receive from it.
///
/// It has no task of its own: whichever part waits for messages also receives those of the other parts, into
/// bounded queues. A message for a full queue, or for a channel that is not open, is dropped as if the
/// network had lost it.
#[derive(Clone)]
pub struct Demux {
    shared: Arc<Shared>,
}

/// Bounds of the queue of each part of a [`Demux`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemuxConfig {
    /// Maximum number of messages queued until the part receives them.
    pub queue_messages: NonZeroUsize,
    /// Total size of these messages, in bytes. A single message may be larger.
    pub queue_bytes: NonZeroUsize,
}

impl Default for DemuxConfig {
    fn default() -> Self {
        Self {
            queue_messages: const { NonZeroUsize::new(4096).expect("not zero") },
            queue_bytes: const { NonZeroUsize::new(64 << 20).expect("not zero") },
        }
    }
}

/// Error: another part has the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("channel {} is taken by another part of this transport; give each protocol channels of its own", .0.0)]
pub struct ChannelTaken(pub Channel);

impl Demux {
    /// Demultiplexer of this transport.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>, config: DemuxConfig) -> Self {
        let (listening, inboxes) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { shared: Arc::new(Shared { transport, config, listening, inboxes }) }
    }

    /// Opens the part with these channels, until it is closed or dropped. It may send on any channel.
    ///
    /// # Errors
    /// When another part has one of them.
    pub fn open(&self, channels: impl IntoIterator<Item = Channel>) -> Result<DemuxTransport, ChannelTaken> {
        let channels: BTreeSet<Channel> = channels.into_iter().collect();
        let mut inboxes = self.shared.inboxes();
        if let Some(taken) = channels.iter().find(|channel| inboxes.contains_key(channel)) {
            return Err(ChannelTaken(*taken));
        }
        let inbox = Arc::new(Inbox::default());
        inboxes.extend(channels.into_iter().map(|channel| (channel, inbox.clone())));
        drop(inboxes);
        Ok(DemuxTransport { shared: self.shared.clone(), inbox })
    }
}

impl fmt::Debug for Demux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channels: BTreeSet<Channel> = self.shared.inboxes().keys().copied().collect();
        f.debug_struct("Demux").field("channels", &channels).finish_non_exhaustive()
    }
}

/// Part of a transport, with channels of its own: created by [`Demux::open`]. Closing or dropping it frees
/// its channels; the transport stays open.
pub struct DemuxTransport {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
}

impl fmt::Debug for DemuxTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DemuxTransport").field("transport", &self.shared.transport).finish_non_exhaustive()
    }
}

impl Drop for DemuxTransport {
    fn drop(&mut self) {
        self.shared.close(&self.inbox);
    }
}

#[async_trait]
impl Transport for DemuxTransport {
    fn capabilities(&self) -> TransportCapabilities {
        self.shared.transport.capabilities()
    }

    fn local_peer(&self) -> PeerId {
        self.shared.transport.local_peer()
    }

    async fn send(&self, peer: PeerId, channel: Channel, message: Bytes) -> Result<(), TransportError> {
        self.inbox.check_open()?;
        self.shared.transport.send(peer, channel, message).await
    }

    async fn request(
        &self,
        peer: PeerId,
        channel: Channel,
        message: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        self.inbox.check_open()?;
        let mut closed = self.inbox.closed.subscribe();
        tokio::select! {
            answer = self.shared.transport.request(peer, channel, message, timeout) => answer,
            _ = closed.wait_for(|closed| *closed) => Err(TransportError::Closed),
        }
    }

    async fn incoming(&self) -> Option<Incoming> {
        let mut closed = self.inbox.closed.subscribe();
        loop {
            if *closed.borrow_and_update() {
                return None;
            }
            if let Some(incoming) = self.inbox.take() {
                return Some(incoming);
            }
            tokio::select! {
                biased;
                _ = closed.changed() => {}
                () = self.inbox.arrived.notified() => {}
                incoming = self.shared.listen(&self.inbox) => {
                    if incoming.is_some() {
                        return incoming;
                    }
                }
            }
        }
    }

    fn peers(&self) -> Vec<PeerId> {
        self.shared.transport.peers()
    }

    async fn close(&self) {
        self.shared.close(&self.inbox);
    }
}

struct Shared {
    transport: Arc<dyn Transport>,
    config: DemuxConfig,
    /// Locked by the part that receives messages for all.
    listening: tokio::sync::Mutex<()>,
    inboxes: Mutex<HashMap<Channel, Arc<Inbox>>>,
}

impl Shared {
    /// Receives messages until there is one for `own`. None when the transport was closed, or the queue must
    /// be checked.
    async fn listen(&self, own: &Arc<Inbox>) -> Option<Incoming> {
        let _turn = self.listening.lock().await;
        // The previous receiver may have queued a message here, which comes first.
        if !own.is_empty() {
            return None;
        }
        while let Some(incoming) = self.transport.incoming().await {
            let to = self.inboxes().get(&incoming.channel).cloned();
            match to {
                Some(to) if Arc::ptr_eq(&to, own) => return Some(incoming),
                Some(to) => to.put(incoming, self.config),
                None => {
                    debug!(from = %incoming.from, channel = incoming.channel.0, "a message for a channel that is not open is dropped");
                }
            }
        }
        let all: Vec<_> = self.inboxes().values().cloned().collect();
        all.iter().for_each(|inbox| self.close(inbox));
        None
    }

    fn close(&self, inbox: &Arc<Inbox>) {
        self.inboxes().retain(|_, other| !Arc::ptr_eq(other, inbox));
        inbox.closed.send_replace(true);
    }

    fn inboxes(&self) -> MutexGuard<'_, HashMap<Channel, Arc<Inbox>>> {
        self.inboxes.lock()
    }
}

/// Messages that another part received for this one.
#[derive(Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    closed: watch::Sender<bool>,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Incoming>,
    bytes: usize,
}

impl Inbox {
    fn check_open(&self) -> Result<(), TransportError> {
        if *self.closed.borrow() { Err(TransportError::Closed) } else { Ok(()) }
    }

    fn is_empty(&self) -> bool {
        self.waiting().messages.is_empty()
    }

    fn put(&self, incoming: Incoming, config: DemuxConfig) {
        let mut waiting = self.waiting();
        let (count, bytes) = (waiting.messages.len(), waiting.bytes + incoming.message.len());
        if count > 0 && (count >= config.queue_messages.get() || bytes > config.queue_bytes.get()) {
            debug!(from = %incoming.from, channel = incoming.channel.0, "a message is dropped: the queue is full");
            return;
        }
        waiting.bytes = bytes;
        waiting.messages.push_back(incoming);
        drop(waiting);
        self.arrived.notify_one();
    }

    fn take(&self) -> Option<Incoming> {
        let mut waiting = self.waiting();
        let incoming = waiting.messages.pop_front()?;
        waiting.bytes -= incoming.message.len();
        Some(incoming)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}
