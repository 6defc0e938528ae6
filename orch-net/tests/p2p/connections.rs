//! Tests that each pair has one connection, while both are there.

use std::time::Duration;

use orch_core::transport::{Transport as _, TransportError};
use orch_net::p2p::{PeerConfig, PeerTransport};

use crate::{
    bench::{
        CHANNEL, PATIENCE, acquaint, address, connected, eventually, identities, member, pair, passes, quick,
        sees, status_of,
    },
    raw::{CLOSE, Key, PING, PONG, Raw, WELCOME},
};

#[tokio::test(flavor = "multi_thread")]
async fn both_dial_at_once_and_one_connection_is_left() {
    for _ in 0..30 {
        let [a, b] = identities();
        let (a, b) = (member(&a, quick()).await, member(&b, quick()).await);
        acquaint(&a, &b);
        connected(&a, &b).await;
        let connection = |from: &PeerTransport, to: &PeerTransport| {
            let status = status_of(from, to.local_peer());
            (status.connection.unwrap().since, status.connection.unwrap().dialled)
        };
        let (near, far) = (connection(&a, &b), connection(&b, &a));
        assert_ne!(near.1, far.1, "both mean the same connection, which one of them dialled");
        for _ in 0..20 {
            passes(&a, &b, "there").await;
            passes(&b, &a, "and back").await;
        }
        assert_eq!((connection(&a, &b), connection(&b, &a)), (near, far), "it stays");
    }
}

#[tokio::test]
async fn a_peer_that_restarts_is_connected_again() {
    let [a, b] = identities();
    for (stays, restarts) in [(&a, &b), (&b, &a)] {
        let stays = member(stays, quick()).await;
        let first = member(restarts, quick()).await;
        acquaint(&stays, &first);
        connected(&stays, &first).await;
        let listen = first.local_addr();
        first.close().await;
        sees(&stays, <[_]>::is_empty).await;
        let sent = stays.send(first.local_peer(), CHANNEL, "lost".into()).await;
        assert!(matches!(sent, Err(TransportError::Connection { .. })), "{sent:?}");

        let mut config = PeerConfig { listen, ..quick() };
        config.peers.insert(stays.local_peer(), vec![]);
        let second = member(restarts, config).await;
        connected(&stays, &second).await;
        passes(&stays, &second, "nothing of before").await;
        passes(&second, &stays, "and back").await;
    }
}

#[tokio::test]
async fn a_new_life_takes_the_place_of_a_connection_that_looks_alive() {
    let a = member(&identities::<1>()[0], quick()).await;
    let key = Key::above(&a);
    a.allow(key.peer, vec![]);
    let (mut old, connection) = Raw::welcomed(&key, &a).await;

    let mut redundant = Raw::dial(&key, &a).await;
    redundant.hello(1, None).await;
    assert_eq!(redundant.next().await, Some((CLOSE, 1, vec![])), "the first one is as good");

    let mut lost = Raw::dial(&key, &a).await;
    lost.hello(1, Some((connection, false))).await;
    let (kind, connection, _) = lost.next().await.unwrap();
    assert_eq!(kind, WELCOME, "it knows that the first one is dead");
    assert_eq!(old.told().await, Some((CLOSE, 2, vec![])));

    let mut late = Raw::dial(&key, &a).await;
    late.hello(1, Some((connection, true))).await;
    assert_eq!(late.next().await, Some((CLOSE, 1, vec![])));

    let mut restarted = Raw::dial(&key, &a).await;
    restarted.hello(2, None).await;
    assert_eq!(restarted.next().await.unwrap().0, WELCOME);
    assert_eq!(lost.told().await, Some((CLOSE, 2, vec![])));
    assert_eq!(a.peers(), [key.peer]);
}

#[tokio::test]
async fn a_silent_peer_is_given_up_and_an_idle_one_is_not() {
    let config = PeerConfig { idle_timeout: Duration::from_millis(150), ..quick() };
    let (a, b) = pair(config).await;
    let since = || status_of(&a, b.local_peer()).connection.unwrap().since;
    let before = since();
    let key = Key::above(&a);
    a.allow(key.peer, vec![]);
    for _ in 0..3 {
        let (mut silent, _) = Raw::welcomed(&key, &a).await;
        assert_eq!(silent.told().await, None, "it is hung up on");
        let error = status_of(&a, key.peer).last_error.unwrap();
        assert!(error.contains("nothing was heard"), "{error}");
    }
    assert_eq!(since(), before, "pings keep the other one");
    eventually("a round trip", || status_of(&a, b.local_peer()).connection.unwrap().round_trip.is_some())
        .await;
}

#[tokio::test]
async fn pings_are_answered() {
    let a = member(&identities::<1>()[0], quick()).await;
    let key = Key::above(&a);
    a.allow(key.peer, vec![]);
    let (mut raw, _) = Raw::welcomed(&key, &a).await;
    raw.send(PING, 0, 77, &[]).await;
    assert_eq!(raw.told().await, Some((PONG, 77, vec![])));
}

#[tokio::test]
async fn peers_are_those_that_are_connected() {
    let [a, b, c] = identities();
    let (a, b, c) = (member(&a, quick()).await, member(&b, quick()).await, member(&c, quick()).await);
    acquaint(&b, &a);
    acquaint(&b, &c);
    sees(&b, |peers| *peers == [a.local_peer(), c.local_peer()]).await;
    let mut changes = b.watch_peers();
    changes.mark_unchanged();
    drop(a);
    tokio::time::timeout(PATIENCE, changes.changed()).await.unwrap().unwrap();
    assert_eq!(b.peers(), [c.local_peer()]);
    let status = b.status();
    assert_eq!(status.iter().filter(|status| status.connection.is_some()).count(), 1);
    assert!(status[0].last_error.is_some());
}

#[tokio::test]
async fn nothing_is_left_behind() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 0);
    let (a, b) = pair(quick()).await;
    let nobody = Key::new([3; 32]).peer;
    a.allow(nobody, vec!["127.0.0.1:1".parse().unwrap()]);
    assert!(tasks() > 0);
    let (listened, weak) = (a.local_addr().unwrap(), std::sync::Arc::downgrade(&a));
    a.close().await;
    a.allow(b.local_peer(), vec![address(&b)]);
    assert!(a.peers().is_empty() && a.status().is_empty());
    drop(tokio::net::TcpListener::bind(listened).await.expect("the port is free at once"));
    drop(a);
    assert!(weak.upgrade().is_none());
    drop(b);
    eventually("the end of all tasks", || tasks() == 0).await;
}
