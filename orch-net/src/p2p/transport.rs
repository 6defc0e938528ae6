//! The transport: its public type.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use orch_core::transport::{Channel, Incoming, PeerId, Transport, TransportCapabilities, TransportError};
use tokio::{net::TcpListener, sync::watch};

use super::{
    config::{Address, PeerConfig, PeerError},
    identity::Identity,
    link::Link,
    peers::Peers,
    shared::Shared,
    status::PeerStatus,
    tasks::Tasks,
    tls::{AllowList, Tls},
};

/// [`Transport`] to and from the allowed members, over TCP with TLS.
///
/// There is one connection with each peer at most. While there is none, `send` and `request` to the peer fail
/// with `Connection`, and frames that are queued when a connection ends are dropped: a peer that returns
/// should get current messages, and not a flood of outdated ones. Messages of a channel arrive in the order
/// in which they were sent.
///
/// Channels 0 to 6 have a queue each per peer, the others share one. Lower channels go first; the others get
/// a small share. A message is one frame: while a large one is being written, all others wait.
///
/// [`Transport::incoming`] takes from peers in turn. A peer whose messages are not taken is no longer read,
/// and then its responses wait too: a caller that waits for a response must not stop taking messages.
///
/// Dropping it cuts all connections and ends all tasks; [`Transport::close`] does so gracefully.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> { orch_core::block_on(async {
/// use orch_core::transport::{Channel, Transport};
/// use orch_net::p2p::{Identity, PeerConfig, PeerTransport};
///
/// let (a, b) = (Identity::generate()?, Identity::generate()?);
/// let mut config = PeerConfig::default();
/// config.peers.insert(b.peer_id(), vec![]);
/// let a = PeerTransport::bind(&a, config).await?;
/// let mut config = PeerConfig::default();
/// config.peers.insert(a.local_peer(), vec![a.local_addr().expect("it listens").into()]);
/// let b = PeerTransport::bind(&b, config).await?;
///
/// b.watch_peers().wait_for(|peers| peers.contains(&a.local_peer())).await?;
/// b.send(a.local_peer(), Channel(0), "hello".into()).await?;
/// assert_eq!(a.incoming().await.expect("it is open").message, "hello");
/// # Ok(()) }) }
/// ```
pub struct PeerTransport {
    shared: Arc<Shared>,
    local_addr: Option<SocketAddr>,
}

impl PeerTransport {
    /// Listens, and begins to dial. Needs a Tokio runtime with I/O and time, on which it stays.
    ///
    /// # Errors
    /// [`PeerError`] when the configuration is invalid or the address cannot be bound.
    pub async fn bind(identity: &Identity, config: PeerConfig) -> Result<Self, PeerError> {
        config.validate()?;
        let listener = match config.listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let allowed = config.peers.clone();
        let peers = Arc::new(Peers::new(config));
        let allow_list = Arc::clone(&peers) as Arc<dyn AllowList>;
        let tls = Tls::new(identity, allow_list).map_err(|error| PeerError::Tls(error.to_string()))?;
        let shared = Arc::new(Shared { local: identity.peer_id(), tls, peers, tasks: Tasks::new() });
        for (peer, addresses) in allowed {
            shared.allow(peer, addresses);
        }
        let local_addr = listener.as_ref().map(|(_, address)| *address);
        if let Some((listener, _)) = listener {
            shared.tasks.spawn(Arc::clone(&shared).listen(listener));
        }
        Ok(Self { shared, local_addr })
    }

    /// Address on which it listens.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Allows a peer, and begins to dial it where it has addresses. For an allowed peer, the addresses are
    /// changed and a connection stays. No effect for the own key, and once closed.
    pub fn allow(&self, peer: PeerId, addresses: Vec<Address>) {
        self.shared.allow(peer, addresses);
    }

    /// Forbids a peer, closes the connection with it, and drops its messages that were not taken yet. Returns
    /// whether it was allowed.
    pub fn forbid(&self, peer: PeerId) -> bool {
        self.shared.peers.forbid(peer)
    }

    /// Every allowed peer, in order of their ids.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        self.shared.peers.status()
    }

    /// Connected peers, in order, and each change of them. Changes that come faster than they are read are
    /// merged.
    #[must_use]
    pub fn watch_peers(&self) -> watch::Receiver<Vec<PeerId>> {
        self.shared.peers.connected()
    }

    fn link(&self, peer: PeerId, message: &Bytes) -> Result<Arc<Link>, TransportError> {
        let (size, max) = (message.len(), self.shared.peers.config().message_bytes_max);
        match self.shared.peers.link(peer) {
            Ok(_) | Err(TransportError::Connection { .. }) if size > max => {
                Err(TransportError::TooLarge { size, max })
            }
            link => link,
        }
    }

    /// Replaces an error by `Closed` where the transport was closed meanwhile.
    fn explain(&self, error: TransportError) -> TransportError {
        match self.shared.peers.is_closed() {
            true => TransportError::Closed,
            false => error,
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), PeerError> {
    let failed = |source| PeerError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

#[async_trait]
impl Transport for PeerTransport {
    fn capabilities(&self) -> TransportCapabilities {
        let max = self.shared.peers.config().message_bytes_max;
        TransportCapabilities::new("p2p", max).authenticated().ordered(true)
    }

    fn local_peer(&self) -> PeerId {
        self.shared.local
    }

    async fn send(&self, peer: PeerId, channel: Channel, message: Bytes) -> Result<(), TransportError> {
        self.link(peer, &message)?.send(channel, message).map_err(|error| self.explain(error))
    }

    async fn request(
        &self,
        peer: PeerId,
        channel: Channel,
        message: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        let asked = self.link(peer, &message)?.ask(channel, message);
        let answer = match asked {
            Ok(asked) => asked.answer(timeout).await,
            Err(error) => Err(error),
        };
        answer.map_err(|error| self.explain(error))
    }

    async fn incoming(&self) -> Option<Incoming> {
        self.shared.peers.inbox.next().await
    }

    fn peers(&self) -> Vec<PeerId> {
        self.shared.peers.connected().borrow().clone()
    }

    async fn close(&self) {
        self.shared.close().await;
    }
}

impl Drop for PeerTransport {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl fmt::Debug for PeerTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("PeerTransport");
        text.field("peer", &self.shared.local).field("local_addr", &self.local_addr);
        text.field("connected", &self.peers()).finish_non_exhaustive()
    }
}
