//! Frames that no honest peer sends end the connection on which they arrive, and nothing else.

use orch_core::transport::Transport as _;
use orch_net::p2p::PeerConfig;

use crate::{
    bench::{acquaint, connected, eventually, identities, member, passes, quick, receive, status_of},
    raw::{CLOSE, Key, MESSAGE, PING, Raw, WELCOME, header},
};

#[tokio::test]
async fn each_is_refused_with_a_reason() {
    let [a, b] = identities();
    let (a, b) = (member(&a, quick()).await, member(&b, quick()).await);
    acquaint(&a, &b);
    connected(&a, &b).await;
    let since = status_of(&a, b.local_peer()).connection.unwrap().since;
    let key = Key::above(&a);
    a.allow(key.peer, vec![]);
    let bad = |at: usize, byte| {
        let mut header = header(MESSAGE, 1, 0, 0);
        header[at] = byte;
        header
    };
    let cases = [
        ("version 9", bad(0, 9)),
        ("unknown kind 99", bad(1, 99)),
        ("a field", bad(3, 1)),
        ("a field", bad(15, 1)),
        ("at most 1048576", header(MESSAGE, 0, (1 << 20) + 1, 0)),
        ("at most 1048576", header(MESSAGE, 0, u32::MAX, 0)),
        ("at most 0", header(PING, 0, 1, 0)),
        ("middle of a connection", header(WELCOME, 0, 0, 0)),
    ];
    for (why, bytes) in cases {
        let (mut raw, _) = Raw::welcomed(&key, &a).await;
        raw.send(MESSAGE, 7, 0, b"before").await;
        assert_eq!(receive(&a).await.message, "before");
        raw.bytes(&bytes).await;
        assert_eq!(raw.told().await, Some((CLOSE, 3, vec![])), "{why}");
        assert_eq!(raw.told().await, None, "{why}");
        let error = || status_of(&a, key.peer).last_error.unwrap_or_default();
        eventually(why, || error().contains(why)).await;
    }
    passes(&a, &b, "the other connection").await;
    assert_eq!(status_of(&a, b.local_peer()).connection.unwrap().since, since);
}

#[tokio::test]
async fn a_greeting_must_come_first() {
    let a = member(&identities::<1>()[0], quick()).await;
    let key = Key::above(&a);
    a.allow(key.peer, vec![]);
    for first in [header(MESSAGE, 1, 0, 0), header(MESSAGE, 1, 1 << 10, 0), header(6, 0, 0, 0), [0xff; 16]] {
        let mut raw = Raw::dial(&key, &a).await;
        raw.bytes(&first).await;
        assert_eq!(raw.next().await, None);
        assert!(a.peers().is_empty());
    }
}

#[tokio::test]
async fn members_keep_to_the_smaller_of_their_limits() {
    use orch_core::transport::TransportError::TooLarge;
    let [a, b] = identities();
    let small = PeerConfig { message_bytes_max: 1000, ..quick() };
    for (a, b) in [(&a, &b), (&b, &a)] {
        let (a, b) = (member(a, quick()).await, member(b, small.clone()).await);
        acquaint(&a, &b);
        connected(&a, &b).await;
        let sent = a.send(b.local_peer(), crate::bench::CHANNEL, vec![0; 1001].into()).await;
        assert_eq!(sent, Err(TooLarge { size: 1001, max: 1000 }));
        passes(&a, &b, "the connection is not the worse for it").await;
    }
}
