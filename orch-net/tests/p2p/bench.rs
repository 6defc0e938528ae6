//! Members for the tests.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use orch_core::transport::{Channel, Incoming, PeerId, Transport};
use orch_net::p2p::{Address, Identity, PeerConfig, PeerStatus, PeerTransport};

pub(crate) const CHANNEL: Channel = Channel(3);

/// Long enough for anything that should happen, on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Identities in the order of their keys, so that the first one decides.
pub(crate) fn identities<const N: usize>() -> [Identity; N] {
    let mut identities = [(); N].map(|()| Identity::generate().unwrap());
    identities.sort_by_key(Identity::peer_id);
    identities
}

/// Configuration with short timeouts and delays.
pub(crate) fn quick() -> PeerConfig {
    PeerConfig {
        message_bytes_max: 1 << 20,
        reconnect_min: Duration::from_millis(5),
        reconnect_max: Duration::from_millis(100),
        ..PeerConfig::default()
    }
}

pub(crate) async fn member(identity: &Identity, config: PeerConfig) -> Arc<PeerTransport> {
    Arc::new(PeerTransport::bind(identity, config).await.unwrap())
}

pub(crate) fn address(member: &PeerTransport) -> Address {
    member.local_addr().unwrap().into()
}

/// Allows each to dial the other.
pub(crate) fn acquaint(a: &PeerTransport, b: &PeerTransport) {
    a.allow(b.local_peer(), vec![address(b)]);
    b.allow(a.local_peer(), vec![address(a)]);
}

/// Two members that are connected.
pub(crate) async fn pair(config: PeerConfig) -> (Arc<PeerTransport>, Arc<PeerTransport>) {
    let [a, b] = identities();
    let (a, b) = (member(&a, config.clone()).await, member(&b, config).await);
    acquaint(&a, &b);
    connected(&a, &b).await;
    (a, b)
}

/// Waits until both have the connection.
pub(crate) async fn connected(a: &PeerTransport, b: &PeerTransport) {
    sees(a, |peers| peers.contains(&b.local_peer())).await;
    sees(b, |peers| peers.contains(&a.local_peer())).await;
}

pub(crate) async fn sees(member: &PeerTransport, wanted: impl Fn(&[PeerId]) -> bool) {
    let mut peers = member.watch_peers();
    let seen = tokio::time::timeout(PATIENCE, peers.wait_for(|peers| wanted(peers))).await;
    seen.expect("the peers must be as wanted in time").unwrap();
}

pub(crate) fn status_of(member: &PeerTransport, peer: PeerId) -> PeerStatus {
    member.status().into_iter().find(|status| status.peer == peer).unwrap()
}

pub(crate) async fn receive(member: &PeerTransport) -> Incoming {
    tokio::time::timeout(PATIENCE, member.incoming()).await.expect("a message must arrive").unwrap()
}

/// Checks that a message with `text` gets from one to the other.
pub(crate) async fn passes(from: &PeerTransport, to: &PeerTransport, text: &'static str) {
    from.send(to.local_peer(), CHANNEL, Bytes::from_static(text.as_bytes())).await.unwrap();
    let arrived = receive(to).await;
    assert_eq!((arrived.from, &arrived.message[..]), (from.local_peer(), text.as_bytes()));
}

/// Polls until the condition holds. For conditions without events.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "{what}: not in time");
}
