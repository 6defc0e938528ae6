//! Allowed peers, and the connection with each.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use orch_core::transport::{PeerId, TransportError};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::{sync::watch, task::AbortHandle};
use tracing::info;

use super::{
    config::{Address, PeerConfig},
    greeting::{Hello, Last, Welcome, Welcomed},
    inbox::Inbox,
    link::{Link, Origin},
    queues::Bounds,
    status::{ConnectionStatus, Counters, PeerStatus},
    tls::AllowList,
};

pub(super) struct Peers {
    config: PeerConfig,
    /// Incarnation of the process; differs after each restart.
    life: u64,
    table: RwLock<Table>,
    /// Peers with a connection, in order.
    connected: watch::Sender<Vec<PeerId>>,
    pub(super) inbox: Inbox,
}

#[derive(Default)]
struct Table {
    peers: BTreeMap<PeerId, Peer>,
    closed: bool,
}

#[derive(Default)]
struct Peer {
    addresses: Vec<Address>,
    link: Option<Arc<Link>>,
    /// Connection that was welcomed last, by this side or the other.
    last: Option<Welcomed>,
    linked: watch::Sender<bool>,
    dialling: Option<AbortHandle>,
    counters: Arc<Counters>,
    last_error: Option<String>,
}

/// Reason for which a connection with an authentic peer is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unwanted {
    #[error("the peer is not allowed")]
    NotAllowed,
    #[error("there is another connection with the peer")]
    Redundant,
}

/// Both ends of a new connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) peer: PeerId,
    pub(super) remote: SocketAddr,
    pub(super) dialled: bool,
}

impl Peers {
    pub(super) fn new(config: PeerConfig) -> Self {
        let bounds = Bounds { messages: config.incoming_messages_max, bytes: config.incoming_bytes_max };
        Self {
            config,
            life: random(),
            table: RwLock::default(),
            connected: watch::Sender::default(),
            inbox: Inbox::new(bounds),
        }
    }

    pub(super) fn config(&self) -> &PeerConfig {
        &self.config
    }

    pub(super) fn connected(&self) -> watch::Receiver<Vec<PeerId>> {
        self.connected.subscribe()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.read().closed
    }

    /// Link of the connection with `peer`.
    pub(super) fn link(&self, peer: PeerId) -> Result<Arc<Link>, TransportError> {
        let table = self.read();
        if table.closed {
            return Err(TransportError::Closed);
        }
        let known = table.peers.get(&peer).ok_or(TransportError::UnknownPeer(peer))?;
        known.link.clone().ok_or_else(|| {
            let why = known.last_error.as_deref().unwrap_or("no attempt has ended yet");
            TransportError::Connection { peer, reason: format!("not connected: {why}") }
        })
    }

    /// Allows `peer`, or changes its addresses. The returned receiver shows whether there is a connection;
    /// `None` when the transport is closed.
    pub(super) fn allow(&self, peer: PeerId, addresses: Vec<Address>) -> Option<watch::Receiver<bool>> {
        let mut table = self.write();
        if table.closed {
            return None;
        }
        let known = table.peers.entry(peer).or_default();
        known.addresses = addresses;
        Some(known.linked.subscribe())
    }

    /// Makes `dialling` the only task that dials `peer`.
    pub(super) fn dialled_by(&self, peer: PeerId, dialling: Option<AbortHandle>) {
        let former = match self.write().peers.get_mut(&peer) {
            Some(known) => std::mem::replace(&mut known.dialling, dialling),
            // The peer was forbidden just now.
            None => dialling,
        };
        if let Some(former) = former {
            former.abort();
        }
    }

    /// Forbids `peer` and closes its connection.
    pub(super) fn forbid(&self, peer: PeerId) -> bool {
        let mut table = self.write();
        let Some(known) = table.peers.remove(&peer) else { return false };
        if let Some(dialling) = known.dialling {
            dialling.abort();
        }
        if let Some(link) = known.link {
            link.end("the peer is no longer allowed");
        }
        self.inbox.forget(peer);
        self.publish(&table);
        true
    }

    /// First frame for `peer`, which decides.
    pub(super) fn hello(&self, peer: PeerId) -> Result<Hello, Unwanted> {
        let table = self.read();
        let known = table.peers.get(&peer).ok_or(Unwanted::NotAllowed)?;
        let is_up = known.link.is_some();
        let last = known.last.map(|last| Last { connection: last.connection, is_up });
        Ok(Hello { life: self.life, last, message_bytes_max: self.message_bytes_max() })
    }

    /// Decides about a connection on which the other side sent Hello.
    pub(super) fn offer(&self, ends: Ends, hello: Hello) -> Result<(Arc<Link>, Welcome), Unwanted> {
        let mut table = self.write();
        let known = table.peers.get_mut(&ends.peer).ok_or(Unwanted::NotAllowed)?;
        if known.link.is_some() && !known.last.is_some_and(|current| hello.outdates(current)) {
            return Err(Unwanted::Redundant);
        }
        let welcome = Welcome { connection: random(), message_bytes_max: self.message_bytes_max() };
        let welcomed = Welcomed { connection: welcome.connection, life: hello.life };
        let link = self.install(known, ends, welcomed, hello.message_bytes_max);
        self.publish(&table);
        Ok((link, welcome))
    }

    /// Uses a connection on which the other side sent Welcome, from now on and instead of any other.
    pub(super) fn welcomed(&self, ends: Ends, welcome: Welcome) -> Result<Arc<Link>, Unwanted> {
        let mut table = self.write();
        let known = table.peers.get_mut(&ends.peer).ok_or(Unwanted::NotAllowed)?;
        let welcomed = Welcomed { connection: welcome.connection, life: self.life };
        let link = self.install(known, ends, welcomed, welcome.message_bytes_max);
        self.publish(&table);
        Ok(link)
    }

    /// Notes that the connection is over, or will be when its driver notices.
    pub(super) fn ended(&self, link: &Arc<Link>, reason: &str) {
        link.end(reason);
        let mut table = self.write();
        let Some(known) = table.peers.get_mut(&link.peer()) else { return };
        if !known.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            return;
        }
        let reason = link.reason();
        info!(peer = %link.peer(), reason, "disconnected");
        known.link = None;
        known.last_error = Some(reason);
        known.linked.send_replace(false);
        self.publish(&table);
    }

    /// Notes that an attempt to connect failed.
    pub(super) fn failed(&self, peer: PeerId, error: String) {
        if let Some(known) = self.write().peers.get_mut(&peer).filter(|known| known.link.is_none()) {
            known.last_error = Some(error);
        }
    }

    /// Closes all connections, and admits no new one.
    pub(super) fn close(&self) {
        let mut table = self.write();
        table.closed = true;
        for known in std::mem::take(&mut table.peers).into_values() {
            if let Some(link) = known.link {
                link.end("this side closed the connection");
            }
        }
        self.inbox.close();
        self.publish(&table);
    }

    pub(super) fn status(&self) -> Vec<PeerStatus> {
        let status = |(peer, known): (&PeerId, &Peer)| PeerStatus {
            peer: *peer,
            addresses: known.addresses.clone(),
            connection: known.link.as_ref().map(|link| ConnectionStatus {
                since: link.since,
                remote: link.origin.remote,
                dialled: link.origin.dialled,
                round_trip: link.round_trip(),
            }),
            last_error: known.last_error.clone(),
            traffic: known.counters.read(),
        };
        self.read().peers.iter().map(status).collect()
    }

    fn install(&self, known: &mut Peer, ends: Ends, welcomed: Welcomed, their_max: u32) -> Arc<Link> {
        let Ends { peer, remote, dialled } = ends;
        let origin = Origin {
            connection: welcomed.connection,
            peer,
            remote,
            dialled,
            message_bytes_max: usize::try_from(their_max)
                .unwrap_or(usize::MAX)
                .min(self.config.message_bytes_max),
        };
        let bounds =
            Bounds { messages: self.config.outgoing_messages_max, bytes: self.config.outgoing_bytes_max };
        let link = Arc::new(Link::new(origin, bounds, self.config.requests_max, Arc::clone(&known.counters)));
        self.inbox.open(peer, welcomed.connection);
        if let Some(former) = known.link.replace(Arc::clone(&link)) {
            former.end("a newer connection took its place");
        }
        known.last = Some(welcomed);
        known.linked.send_replace(true);
        info!(%peer, %remote, dialled, "connected");
        link
    }

    fn publish(&self, table: &Table) {
        let up = table.peers.iter().filter(|(_, known)| known.link.is_some()).map(|(peer, _)| *peer);
        self.connected.send_if_modified(|connected| {
            let up = up.collect::<Vec<_>>();
            let changed = *connected != up;
            *connected = up;
            changed
        });
    }

    fn message_bytes_max(&self) -> u32 {
        u32::try_from(self.config.message_bytes_max).unwrap_or(u32::MAX)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write()
    }
}

impl AllowList for Peers {
    fn allows(&self, peer: PeerId) -> bool {
        self.read().peers.contains_key(&peer)
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("connected", &*self.connected.borrow()).finish_non_exhaustive()
    }
}

/// Random number for incarnations and connections. It is no secret.
pub(super) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
