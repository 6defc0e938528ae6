//! The [`Transport`] trait: messages between members of a cluster. `testkit::transport` checks the contract.

mod demux;
mod in_process;

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

pub use demux::{ChannelTaken, Demux, DemuxConfig, DemuxTransport};
pub use in_process::{Faults, InProcessConfig, InProcessNetwork, InProcessTransport};

/// A member, named by its Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// The peer with this public key.
    #[must_use]
    pub const fn from_bytes(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The public key.
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

/// A text that is not a public key.
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

/// Separates the protocols that share a transport. Lower numbers go first where a backend has priorities.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Channel(pub u8);

/// Messages between peers. May lose, delay, duplicate or reorder them unless its capabilities promise more;
/// the sender of a message that arrives is authentic where `authenticated` is declared.
///
/// Queues are bounded: `send` to a peer whose queue is full drops the message and says so, it never waits.
#[async_trait]
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// What this backend promises. Constant over its life.
    fn capabilities(&self) -> TransportCapabilities;

    /// Who we are.
    fn local_peer(&self) -> PeerId;

    /// Hands one message over for `peer`. Returning is no sign of arrival.
    ///
    /// # Errors
    /// [`TransportError`] when it is known already that it will not arrive.
    async fn send(&self, peer: PeerId, channel: Channel, message: Bytes) -> Result<(), TransportError>;

    /// Sends a message and waits for the peer's answer to it, at most `timeout`. Dropping the future forgets
    /// the request; the peer may still act on it.
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

    /// The next message for us; `None` after [`Transport::close`]. Cancel safe. Several callers share the
    /// messages.
    async fn incoming(&self) -> Option<Incoming>;

    /// The peers that can be reached as far as is known, in order of their ids.
    fn peers(&self) -> Vec<PeerId>;

    /// Stops sending and receiving. Closing twice is no error.
    async fn close(&self);
}

/// A message that arrived.
#[derive(Debug)]
pub struct Incoming {
    /// Who sent it.
    pub from: PeerId,
    /// For which protocol.
    pub channel: Channel,
    /// What it says.
    pub message: Bytes,
    /// Set when the sender waits for an answer. Dropping it unanswered lets the sender's timeout run out.
    pub reply: Option<Reply>,
}

/// Answers one request.
pub struct Reply(Box<dyn FnOnce(Bytes) + Send>);

impl Reply {
    /// A reply that is delivered by `deliver`. For backends.
    #[must_use]
    pub fn new(deliver: impl FnOnce(Bytes) + Send + 'static) -> Self {
        Self(Box::new(deliver))
    }

    /// Sends the answer. Like any message it may be lost.
    pub fn send(self, answer: Bytes) {
        (self.0)(answer);
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// What a transport promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportCapabilities {
    /// Short name for messages: `in-process`, `p2p`.
    pub name: &'static str,
    /// Nobody can send in another peer's name.
    pub authenticated: bool,
    /// Messages of one channel between two peers arrive in order, while they arrive.
    pub ordered: bool,
    /// The largest message in bytes.
    pub max_message_bytes: usize,
}

/// Why a message did not go out, or an answer did not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Nobody is known by this id.
    #[error("peer {0} is not known")]
    UnknownPeer(PeerId),
    /// The peer's queue is full; the message was dropped.
    #[error("too many messages wait for peer {0}")]
    Busy(PeerId),
    /// No answer came in time.
    #[error("peer {0} did not answer in time")]
    Timeout(PeerId),
    /// The message is larger than the backend takes.
    #[error("a message of {size} bytes is too large; at most {max} are sent")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The largest size in bytes.
        max: usize,
    },
    /// The transport was closed.
    #[error("the transport is closed")]
    Closed,
    /// The connection failed.
    #[error("the connection to peer {peer} failed: {reason}")]
    Connection {
        /// Who could not be reached.
        peer: PeerId,
        /// What happened.
        reason: String,
    },
}
