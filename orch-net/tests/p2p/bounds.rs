//! A peer that does not read, or sends too much, only harms itself.

use std::time::Duration;

use bytes::Bytes;
use orch_core::transport::{Transport as _, TransportError};
use orch_net::p2p::{PeerConfig, PeerTransport};

use crate::{
    bench::{
        CHANNEL, acquaint, connected, eventually, identities, member, pair, passes, quick, receive, status_of,
    },
    raw::{Key, Raw},
};

/// Sends until the queue is full, for as long as it takes the sockets to fill. Returns how many were sent.
pub(crate) async fn flood(from: &PeerTransport, to: &PeerTransport) -> u64 {
    let message = Bytes::from(vec![1; 8 << 10]);
    let (mut sent, mut refusals) = (0, 0);
    while refusals < 20 {
        match from.send(to.local_peer(), CHANNEL, message.clone()).await {
            Ok(()) => (sent, refusals) = (sent + 1, 0),
            Err(TransportError::Busy(_)) => {
                refusals += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    sent
}

fn tight() -> PeerConfig {
    PeerConfig { incoming_messages_max: 16, outgoing_messages_max: 16, ..quick() }
}

#[tokio::test]
async fn a_peer_that_floods_does_not_starve_the_others() {
    let [a, b, c] = identities();
    let (a, b, c) = (member(&a, tight()).await, member(&b, tight()).await, member(&c, tight()).await);
    for other in [&a, &c] {
        acquaint(&b, other);
        connected(&b, other).await;
    }
    let flooded = flood(&a, &b).await;
    let waiting = status_of(&b, a.local_peer()).traffic.received_messages;
    assert!(waiting < flooded, "not all of the flood is taken in: {waiting} of {flooded}");
    c.send(b.local_peer(), CHANNEL, "heard".into()).await.unwrap();
    eventually("arrival", || status_of(&b, c.local_peer()).traffic.received_messages == 1).await;
    let first = [receive(&b).await.from, receive(&b).await.from];
    assert!(first.contains(&c.local_peer()), "it must have its turn");
    passes(&b, &c, "and back").await;
    for _ in 0..flooded - 1 {
        assert_eq!(receive(&b).await.from, a.local_peer());
    }
    assert!(status_of(&a, b.local_peer()).traffic.refused_messages > 0);
}

#[tokio::test]
async fn a_slow_reader_is_not_taken_for_dead() {
    let config = PeerConfig { idle_timeout: Duration::from_millis(150), ..tight() };
    let (a, b) = pair(config).await;
    let since = status_of(&a, b.local_peer()).connection.unwrap().since;
    let flooded = flood(&a, &b).await;
    let key = Key::above(&b);
    b.allow(key.peer, vec![]);
    for _ in 0..3 {
        let (mut silent, _) = Raw::welcomed(&key, &b).await;
        assert_eq!(silent.told().await, None, "an idle time-out passes");
    }
    for _ in 0..flooded {
        receive(&b).await;
    }
    passes(&a, &b, "all of it arrived, and more").await;
    assert_eq!(status_of(&a, b.local_peer()).connection.unwrap().since, since);
}
