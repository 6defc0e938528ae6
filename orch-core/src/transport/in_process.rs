//! Messages between members that live in one process, with faults on demand.

mod hub;

use std::{collections::BTreeSet, fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use self::hub::{Answer, Hub, Parcel};
use super::{Channel, Incoming, PeerId, Transport, TransportCapabilities, TransportError};

/// Bounds and nature of an [`InProcessNetwork`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InProcessConfig {
    /// Messages that wait for one peer; the next one is [`TransportError::Busy`].
    pub queue_messages: NonZeroUsize,
    /// The largest message in bytes.
    pub max_message_bytes: usize,
    /// Whether messages of one channel between two peers keep their order, whatever [`Faults`] say.
    pub ordered: bool,
    /// Where the generator behind the faults starts. The same seed and the same sequence of messages meet the
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

/// What happens to messages on their way. The default is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Faults {
    /// How many of a hundred messages are lost.
    pub loss_percent: u8,
    /// How many of a hundred messages arrive twice.
    pub duplicate_percent: u8,
    /// How many of a hundred messages wait for an extra [`Faults::delay_max`], so that later ones overtake
    /// them. Not where the network is `ordered`.
    pub reorder_percent: u8,
    /// The shortest time a message takes.
    pub delay_min: Duration,
    /// The longest time a message takes.
    pub delay_max: Duration,
}

/// A network inside this process. Clones are the same network. Needs a Tokio runtime where messages are sent.
#[derive(Clone)]
pub struct InProcessNetwork {
    hub: Arc<Hub>,
}

impl InProcessNetwork {
    /// A network without members and faults.
    #[must_use]
    pub fn new(config: InProcessConfig) -> Self {
        Self { hub: Arc::new(Hub::new(config)) }
    }

    /// Adds a member. It takes the place of an earlier one with the same id, as a restarted process would.
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

    /// Faults of every message from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.hub.change(|state| state.faults = faults);
    }

    /// Loses everything from `from` to `to`; the other direction stays open.
    pub fn block(&self, from: PeerId, to: PeerId) {
        self.hub.change(|state| state.blocked.insert((from, to)));
    }

    /// Loses everything between members of different groups. Who is in no group reaches all.
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

    /// Ends all blocks, partitions and faults. What is delayed already still comes when it is due.
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

/// A member of an [`InProcessNetwork`]. Leaves it when it is closed or dropped.
pub struct InProcessTransport {
    hub: Arc<Hub>,
    peer: PeerId,
    /// Tells this member from a later one with the same id.
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
        TransportCapabilities {
            name: "in-process",
            authenticated: true,
            ordered: self.hub.config().ordered,
            max_message_bytes: self.hub.config().max_message_bytes,
        }
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
            // A lost question or answer is dropped somewhere; to the sender that is silence.
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
