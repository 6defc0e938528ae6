//! Requests, beyond the contract of every transport.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use orch_core::transport::{Transport as _, TransportError};
use orch_net::p2p::{PeerConfig, PeerTransport};

use crate::bench::{CHANNEL, PATIENCE, pair, passes, quick, receive};

fn ask(
    from: &Arc<PeerTransport>,
    to: &PeerTransport,
    timeout: Duration,
) -> tokio::task::JoinHandle<Result<Bytes, TransportError>> {
    let (from, to) = (from.clone(), to.local_peer());
    tokio::spawn(async move { from.request(to, CHANNEL, "?".into(), timeout).await })
}

#[tokio::test]
async fn a_late_answer_is_dropped() {
    let (a, b) = pair(quick()).await;
    let asked = ask(&a, &b, Duration::from_millis(20));
    let question = receive(&b).await;
    assert_eq!(asked.await.unwrap(), Err(TransportError::Timeout(b.local_peer())));
    question.reply.unwrap().send("late".into());
    let asked = ask(&a, &b, PATIENCE);
    receive(&b).await.reply.unwrap().send("in time".into());
    assert_eq!(asked.await.unwrap().unwrap(), "in time");
}

#[tokio::test]
async fn requests_that_wait_are_bounded_and_forgotten_with_their_futures() {
    let (a, b) = pair(PeerConfig { requests_max: 2, ..quick() }).await;
    let first = ask(&a, &b, PATIENCE);
    let second = ask(&a, &b, PATIENCE);
    let questions = [receive(&b).await, receive(&b).await];
    assert_eq!(ask(&a, &b, PATIENCE).await.unwrap(), Err(TransportError::Busy(b.local_peer())));
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let third = ask(&a, &b, PATIENCE);
    for question in questions {
        question.reply.unwrap().send("early".into());
    }
    assert_eq!(second.await.unwrap().unwrap(), "early");
    receive(&b).await.reply.unwrap().send("third".into());
    assert_eq!(third.await.unwrap().unwrap(), "third");
}

#[tokio::test]
async fn a_lost_connection_ends_what_waits_on_it() {
    let (a, b) = pair(quick()).await;
    let asked = ask(&a, &b, PATIENCE * 10);
    let question = receive(&b).await;
    b.forbid(a.local_peer());
    let failed = tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap();
    assert!(matches!(failed, Err(TransportError::Connection { .. })), "{failed:?}");
    question.reply.unwrap().send("to nobody".into());
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_sent() {
    let (a, b) = pair(quick()).await;
    let asked = ask(&a, &b, Duration::from_millis(200));
    receive(&b).await.reply.unwrap().send(vec![0; (1 << 20) + 1].into());
    assert_eq!(asked.await.unwrap(), Err(TransportError::Timeout(b.local_peer())));
    passes(&a, &b, "the connection is not the worse for it").await;
}
