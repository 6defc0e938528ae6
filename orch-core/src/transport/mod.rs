//! The [`Transport`] trait: messages between members of a cluster. `testkit::transport` checks the contract.

mod demux;
mod in_process;

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

pub use demux::{ChannelTaken, Demux, DemuxConfig, DemuxTransport};
pub use in_process::{Faults, InProcessConfig, InProcessNetwork, InProcessTransport};

/// Id of a member: its Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// Id of the peer with this public key.
    #[must_use]
    pub const fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({:02x}{:02x}{:02x}{:02x}..)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// Error: a text is not a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a peer id is an Ed25519 public key: 64 hexadecimal digits")]
pub struct PeerIdError;

impl FromStr for PeerId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(PeerIdError);
        }
        let mut key = [0; 32];
        for (byte, at) in key.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| PeerIdError)?;
        }
        Ok(Self(key))
    }
}

/// Channel that separates the protocols of a shared transport. Lower numbers go first where a backend has
/// priorities.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Channel(pub u8);

/// Message transport between peers. May lose, delay, duplicate or reorder messages unless its capabilities
/// promise more; the sender of a received message is authentic where `authenticated` is declared.
///
/// Queues are bounded: `send` to a peer whose queue is full drops the message and returns an error, it never
/// waits.
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// Capabilities of this backend. Constant over its lifetime.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::transport::*;
    /// # let transport = InProcessNetwork::default().join(PeerId::from_bytes([1; 32]));
    /// assert!(transport.capabilities().authenticated);
    /// # });
    /// ```
    fn capabilities(&self) -> TransportCapabilities;

    /// Id of the local peer.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::transport::*;
    /// let one = PeerId::from_bytes([1; 32]);
    /// let transport = InProcessNetwork::default().join(one);
    /// assert_eq!(transport.local_peer(), one);
    /// # });
    /// ```
    fn local_peer(&self) -> PeerId;

    /// Hands one message over for `peer`. Success does not imply delivery.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::transport::*;
    /// # let network = InProcessNetwork::default();
    /// # let (one, two) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
    /// # let (a, b) = (network.join(one), network.join(two));
    /// a.send(two, Channel(0), "hello".into()).await.unwrap();
    /// assert_eq!(b.incoming().await.unwrap().message, "hello");
    /// let nobody = PeerId::from_bytes([3; 32]);
    /// let unknown = a.send(nobody, Channel(0), "hello".into()).await;
    /// assert_eq!(unknown, Err(TransportError::UnknownPeer(nobody)));
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`TransportError`] when it is known already that the message will not be delivered.
    async fn send(&self, peer: PeerId, channel: Channel, message: Bytes) -> Result<(), TransportError>;

    /// Sends a request and waits for the peer's response, at most `timeout`. Dropping the future forgets the
    /// request; the peer may still act on it.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::transport::*;
    /// # let network = InProcessNetwork::default();
    /// # let (one, two) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
    /// # let (a, b) = (network.join(one), network.join(two));
    /// let question = a.request(two, Channel(0), "2 + 2".into(), std::time::Duration::from_secs(10));
    /// let respond = async {
    ///     let incoming = b.incoming().await.unwrap();
    ///     incoming.reply.unwrap().send("4".into());
    /// };
    /// let (answer, ()) = futures_util::join!(question, respond);
    /// assert_eq!(answer.unwrap(), "4");
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`TransportError`]; after [`TransportError::Timeout`] the peer may have acted.
    async fn request(
        &self,
        peer: PeerId,
        channel: Channel,
        message: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError>;

    /// Receives the next message; `None` after [`Transport::close`]. Cancel safe. Several callers share the
    /// messages.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::transport::*;
    /// # let network = InProcessNetwork::default();
    /// # let (one, two) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
    /// # let (a, b) = (network.join(one), network.join(two));
    /// a.send(two, Channel(7), "hello".into()).await.unwrap();
    /// let incoming = b.incoming().await.unwrap();
    /// assert_eq!((incoming.from, incoming.channel), (one, Channel(7)));
    /// assert!(incoming.reply.is_none());
    /// b.close().await;
    /// assert!(b.incoming().await.is_none());
    /// # });
    /// ```
    async fn incoming(&self) -> Option<Incoming>;

    /// Peers that are reachable as far as is known, in order of their ids.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::transport::*;
    /// # let network = InProcessNetwork::default();
    /// # let (one, two) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
    /// # let (a, b) = (network.join(one), network.join(two));
    /// assert_eq!(a.peers(), [two]);
    /// b.close().await;
    /// assert_eq!(a.peers(), []);
    /// # });
    /// ```
    fn peers(&self) -> Vec<PeerId>;

    /// Stops sending and receiving. Closing twice is no error.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::transport::*;
    /// # let network = InProcessNetwork::default();
    /// # let (one, two) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
    /// # let (a, b) = (network.join(one), network.join(two));
    /// a.close().await;
    /// let late = a.send(two, Channel(0), "hello".into()).await;
    /// assert_eq!(late, Err(TransportError::Closed));
    /// # });
    /// ```
    async fn close(&self);
}

/// Received message.
#[derive(Debug)]
pub struct Incoming {
    /// Id of the sender.
    pub from: PeerId,
    /// Channel of the message.
    pub channel: Channel,
    /// Content of the message.
    pub message: Bytes,
    /// Set when the sender waits for a response. Dropping it without a response lets the sender's timeout
    /// expire.
    pub reply: Option<Reply>,
}

/// One-time sender of the response to a request.
pub struct Reply(Box<dyn FnOnce(Bytes) + Send>);

impl Reply {
    /// Reply that is delivered by `deliver`. For backends.
    #[must_use]
    pub fn new(deliver: impl FnOnce(Bytes) + Send + 'static) -> Self {
        Self(Box::new(deliver))
    }

    /// Sends the response. Like any message it may be lost.
    pub fn send(self, answer: Bytes) {
        (self.0)(answer);
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Capabilities of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportCapabilities {
    /// Short name for messages: `in-process`, `p2p`.
    pub name: &'static str,
    /// Whether the sender of a message is authentic: no peer can send in the name of another one.
    pub authenticated: bool,
    /// Whether messages of one channel between two peers arrive in order, as far as they arrive.
    pub ordered: bool,
    /// Maximum size of a message, in bytes.
    pub max_message_bytes: usize,
}

impl TransportCapabilities {
    /// A transport that promises nothing but the size of its messages.
    #[must_use]
    pub const fn new(name: &'static str, max_message_bytes: usize) -> Self {
        Self { name, authenticated: false, ordered: false, max_message_bytes }
    }

    /// The same, of a transport whose senders are authentic.
    #[must_use]
    pub const fn authenticated(self) -> Self {
        Self { authenticated: true, ..self }
    }

    /// The same, of a transport that keeps the order of messages where `ordered` says so.
    #[must_use]
    pub const fn ordered(self, ordered: bool) -> Self {
        Self { ordered, ..self }
    }
}

/// Error of sending a message or awaiting a response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No peer is known by this id.
    #[error("peer {0} is not known")]
    UnknownPeer(PeerId),
    /// The peer's queue is full; the message was dropped.
    #[error("too many messages wait for peer {0}")]
    Busy(PeerId),
    /// No response arrived in time.
    #[error("peer {0} did not answer in time")]
    Timeout(PeerId),
    /// The message exceeds the maximum size of the backend.
    #[error("a message of {size} bytes is too large; at most {max} are sent")]
    TooLarge {
        /// Size of the message, in bytes.
        size: usize,
        /// Maximum size, in bytes.
        max: usize,
    },
    /// The transport was closed.
    #[error("the transport is closed")]
    Closed,
    /// The connection failed.
    #[error("the connection to peer {peer} failed: {reason}")]
    Connection {
        /// Id of the peer that could not be reached.
        peer: PeerId,
        /// Description of the failure.
        reason: String,
    },
}
