//! Strangers cannot keep members out by holding connections open.

use std::time::Duration;

use orch_core::transport::Transport as _;
use orch_net::p2p::PeerConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    bench::{PATIENCE, address, connected, identities, member, quick},
    raw::{Key, Raw},
};

async fn hung_up_on(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    // A reset counts as an end.
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.is_ok()
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let config = PeerConfig { handshake_timeout: Duration::from_millis(100), ..quick() };
    let a = member(&identities::<1>()[0], config).await;
    let key = Key::above(&a);
    a.allow(key.peer, vec![]);
    let mut silent = TcpStream::connect(a.local_addr().unwrap()).await.unwrap();
    assert!(hung_up_on(&mut silent).await, "nothing is said");
    let mut slow = TcpStream::connect(a.local_addr().unwrap()).await.unwrap();
    slow.write_all(&[22, 3, 1]).await.unwrap();
    assert!(hung_up_on(&mut slow).await, "TLS is begun");
    let mut mute = Raw::dial(&key, &a).await;
    assert_eq!(mute.next().await, None, "TLS is done, and no greeting comes");
    assert!(a.peers().is_empty());
}

#[tokio::test]
async fn the_oldest_of_too_many_handshakes_is_given_up() {
    let [a, b] = identities();
    let patient = PeerConfig { handshakes_max: 4, handshake_timeout: PATIENCE * 2, ..quick() };
    let (a, b) = (member(&a, patient).await, member(&b, PeerConfig { listen: None, ..quick() }).await);
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.push(TcpStream::connect(a.local_addr().unwrap()).await.unwrap());
    }
    assert!(hung_up_on(&mut strangers[0]).await);
    a.allow(b.local_peer(), vec![]);
    b.allow(a.local_peer(), vec![address(&a)]);
    connected(&a, &b).await;
    assert_eq!(b.local_addr(), None);
    assert_eq!(a.peers(), [b.local_peer()]);
}
