//! Messages between members within one process, with injected faults.

mod hub;

use std::{collections::BTreeSet, fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use self::hub::{Answer, Hub, Parcel};
use super::{Channel, Incoming, PeerId, Transport, TransportCapabilities, TransportError};

/// Configuration of an [`InProcessNetwork`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InProcessConfig {
    /// Maximum number of messages queued for one peer; the next one is [`TransportError::Busy`].
    pub queue_messages: NonZeroUsize,
    /// Maximum size of a message, in bytes.
    pub max_message_bytes: usize,
    /// Whether messages of one channel between two peers keep their order despite [`Faults`].
    pub ordered: bool,
    /// Seed of the generator behind the faults. The same seed and the same sequence of messages produce the
    /// same faults.
    pub seed: u64,
}

impl Default for InProcessConfig {
    fn default() -> Self {
        Self {
            queue_messages: const { NonZeroUsize::new(1024).expect("not zero") },
            max_message_bytes: 16 << 20,
            ordered: true,
            seed: 0,
        }
    }
}

/// Faults that are injected into messages. The default is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Faults {
    /// Percentage of messages that are lost, 0 to 100.
    pub loss_percent: u8,
    /// Percentage of messages that are delivered twice, 0 to 100.
    pub duplicate_percent: u8,
    /// Percentage of messages that are delayed by an extra [`Faults::delay_max`], so that later ones overtake
    /// them, 0 to 100. Ignored where the network is `ordered`.
    pub reorder_percent: u8,
    /// Minimum latency of a message.
    pub delay_min: Duration,
    /// Maximum latency of a message.
    pub delay_max: Duration,
}

/// Network inside this process. Clones share the same network. Needs a Tokio runtime where messages are sent.
#[derive(Clone)]
pub struct InProcessNetwork {
    hub: Arc<Hub>,
}

impl InProcessNetwork {
    /// Network without members and faults.
    #[must_use]
    pub fn new(config: InProcessConfig) -> Self {
        Self { hub: Arc::new(Hub::new(config)) }
    }

    /// Adds a member. It replaces an earlier one with the same id, as a restarted process would.
    #[must_use]
    pub fn join(&self, peer: PeerId) -> InProcessTransport {
        let (inbox, incoming) = mpsc::channel(self.hub.config().queue_messages.get());
        self.hub.join(peer, inbox.clone());
        InProcessTransport {
            hub: Arc::clone(&self.hub),
            peer,
            inbox: inbox.downgrade(),
            incoming: Mutex::new(incoming),
            closed: watch::Sender::new(false),
        }
    }

    /// Sets the faults of every message from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.hub.change(|state| state.faults = faults);
    }

    /// Drops every message from `from` to `to`; the other direction stays open.
    pub fn block(&self, from: PeerId, to: PeerId) {
        self.hub.change(|state| state.blocked.insert((from, to)));
    }

    /// Drops every message between members of different groups. A member of no group reaches all.
    pub fn partition(&self, groups: &[&[PeerId]]) {
        let mut cut = BTreeSet::new();
        for (at, group) in groups.iter().enumerate() {
            for other in
                groups.iter().enumerate().filter(|(other, _)| *other != at).flat_map(|(_, group)| *group)
            {
                cut.extend(group.iter().map(|peer| (*peer, *other)));
            }
        }
        self.hub.change(|state| state.blocked.extend(cut));
    }

    /// Ends all blocks, partitions and faults. Messages that are delayed already are still delivered when
    /// they are due.
    pub fn heal(&self) {
        self.hub.change(|state| {
            state.blocked.clear();
            state.faults = Faults::default();
        });
    }
}

impl Default for InProcessNetwork {
    fn default() -> Self {
        Self::new(InProcessConfig::default())
    }
}

impl fmt::Debug for InProcessNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessNetwork").field("peers", &self.hub.peers()).finish_non_exhaustive()
    }
}

/// Member of an [`InProcessNetwork`]. Leaves it when it is closed or dropped.
pub struct InProcessTransport {
    hub: Arc<Hub>,
    peer: PeerId,
    /// Distinguishes this member from a later one with the same id.
    inbox: mpsc::WeakSender<Incoming>,
    incoming: Mutex<mpsc::Receiver<Incoming>>,
    closed: watch::Sender<bool>,
}

impl InProcessTransport {
    fn check(&self, message: &Bytes) -> Result<(), TransportError> {
        let max = self.hub.config().max_message_bytes;
        match message.len() {
            _ if *self.closed.borrow() => Err(TransportError::Closed),
            size if size > max => Err(TransportError::TooLarge { size, max }),
            _ => Ok(()),
        }
    }

    fn leave(&self) {
        self.closed.send_replace(true);
        if let Some(inbox) = self.inbox.upgrade() {
            self.hub.leave(self.peer, &inbox);
        }
    }
}

#[async_trait]
impl Transport for InProcessTransport {
    fn capabilities(&self) -> TransportCapabilities {
        let config = self.hub.config();
        TransportCapabilities::new("in-process", config.max_message_bytes)
            .authenticated()
            .ordered(config.ordered)
    }

    fn local_peer(&self) -> PeerId {
        self.peer
    }

    async fn send(&self, peer: PeerId, channel: Channel, message: Bytes) -> Result<(), TransportError> {
        self.check(&message)?;
        self.hub.transmit(self.peer, peer, &Parcel::Message { channel, message, answer: None })
    }

    async fn request(
        &self,
        peer: PeerId,
        channel: Channel,
        message: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        self.check(&message)?;
        let (answer, answered) = oneshot::channel();
        let answer = Some(Answer::new(answer));
        self.hub.transmit(self.peer, peer, &Parcel::Message { channel, message, answer })?;
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(TransportError::Closed),
            // A lost request or response is dropped on the way; the sender only sees no response.
            Ok(answer) = answered => Ok(answer),
            () = tokio::time::sleep(timeout) => Err(TransportError::Timeout(peer)),
        }
    }

    async fn incoming(&self) -> Option<Incoming> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => None,
            message = async { self.incoming.lock().await.recv().await } => message,
        }
    }

    fn peers(&self) -> Vec<PeerId> {
        self.hub.peers().into_iter().filter(|peer| *peer != self.peer).collect()
    }

    async fn close(&self) {
        self.leave();
    }
}

impl Drop for InProcessTransport {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for InProcessTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessTransport").field("peer", &self.peer).finish_non_exhaustive()
    }
}
