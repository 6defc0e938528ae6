//! Conformance suite of [`Transport`] on a network without faults. Call [`run_all`] from a test of the
//! backend.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::transport::{Channel, PeerId, Transport, TransportError};

/// Longer than any response of a healthy network takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);
const CHANNEL: Channel = Channel(7);

/// Factory of the transports that the suite works on.
#[async_trait]
pub trait TransportHarness: Send + Sync {
    /// Connects fresh members of one network, without faults, that can reach each other when this returns.
    async fn connect(&self, members: usize) -> Vec<Arc<dyn Transport>>;

    /// Number of messages that can be sent to a peer that reads none before it is `Busy`, if there is such a
    /// number.
    fn queue_messages(&self) -> Option<usize>;
}

/// Runs every case that the backend's capabilities require.
///
/// # Panics
/// When the backend breaks the contract.
pub async fn run_all(harness: &dyn TransportHarness) {
    case("messages_arrive", messages_arrive(harness)).await;
    case("members_know_each_other", members_know_each_other(harness)).await;
    case("requests_are_answered", requests_are_answered(harness)).await;
    case("answers_go_to_their_requests", answers_go_to_their_requests(harness)).await;
    case("silence_is_a_timeout", silence_is_a_timeout(harness)).await;
    case("strangers_are_refused", strangers_are_refused(harness)).await;
    case("sizes_are_limited", sizes_are_limited(harness)).await;
    case("full_queues_say_so", full_queues_say_so(harness)).await;
    case("closed_transports_say_so", closed_transports_say_so(harness)).await;
    case("declared_order_is_kept", declared_order_is_kept(harness)).await;
}

/// A message arrives with its sender, channel and bytes.
pub async fn messages_arrive(harness: &dyn TransportHarness) {
    let [a, b] = pair(harness).await;
    for message in [Bytes::new(), Bytes::from_static(b"hello"), Bytes::from(vec![9; 100_000])] {
        let message = message.slice(..message.len().min(a.capabilities().max_message_bytes));
        a.send(b.local_peer(), CHANNEL, message.clone()).await.expect("send");
        let arrived = b.incoming().await.expect("an open transport goes on");
        assert_eq!((arrived.from, arrived.channel), (a.local_peer(), CHANNEL));
        assert!(arrived.message == message, "the message must arrive as it was sent");
        assert!(arrived.reply.is_none(), "nobody waits for an answer to a message");
    }
}

/// Each member lists the others in order, and not itself.
pub async fn members_know_each_other(harness: &dyn TransportHarness) {
    let members = harness.connect(4).await;
    let mut ids: Vec<_> = members.iter().map(|member| member.local_peer()).collect();
    ids.sort();
    for member in &members {
        let others: Vec<_> = ids.iter().copied().filter(|id| *id != member.local_peer()).collect();
        assert_eq!(member.peers(), others);
    }
}

/// A request gets the response of the peer.
pub async fn requests_are_answered(harness: &dyn TransportHarness) {
    let [a, b] = pair(harness).await;
    let echo = tokio::spawn(echo(Arc::clone(&b), 1));
    let answer = a.request(b.local_peer(), CHANNEL, Bytes::from_static(b"ping"), PATIENCE).await;
    assert_eq!(answer.expect("an answer"), "re: ping");
    echo.await.expect("the answering side must not panic");
}

/// Concurrent requests each get their own response.
pub async fn answers_go_to_their_requests(harness: &dyn TransportHarness) {
    const REQUESTS: usize = 50;
    let [a, b] = pair(harness).await;
    let echo = tokio::spawn(echo(Arc::clone(&b), REQUESTS));
    let requests = (0..REQUESTS).map(|n| {
        let (a, b) = (Arc::clone(&a), b.local_peer());
        tokio::spawn(async move {
            let answer = a.request(b, CHANNEL, n.to_string().into(), PATIENCE).await.expect("an answer");
            assert_eq!(answer, format!("re: {n}"), "the answer to another request");
        })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.expect("every request must get its answer");
    }
    echo.await.expect("the answering side must not panic");
}

/// A request without a response ends by its timeout, also when the peer drops it.
pub async fn silence_is_a_timeout(harness: &dyn TransportHarness) {
    let [a, b] = pair(harness).await;
    let timeout = Duration::from_millis(50);
    let begin = tokio::time::Instant::now();
    let asking = a.request(b.local_peer(), CHANNEL, Bytes::from_static(b"?"), timeout);
    let dropping = async { drop(b.incoming().await) };
    let (answer, ()) = futures_util::join!(asking, dropping);
    assert_eq!(answer, Err(TransportError::Timeout(b.local_peer())));
    assert!(begin.elapsed() >= timeout, "a request must wait as long as it may");
}

/// An unknown peer is rejected with its id.
pub async fn strangers_are_refused(harness: &dyn TransportHarness) {
    let [a, _b] = pair(harness).await;
    let stranger = PeerId::from_bytes([0xEE; 32]);
    assert_eq!(a.send(stranger, CHANNEL, Bytes::new()).await, Err(TransportError::UnknownPeer(stranger)));
    let answer = a.request(stranger, CHANNEL, Bytes::new(), PATIENCE).await;
    assert_eq!(answer, Err(TransportError::UnknownPeer(stranger)));
}

/// A message of the declared size arrives, one more byte is rejected.
pub async fn sizes_are_limited(harness: &dyn TransportHarness) {
    let [a, b] = pair(harness).await;
    let max = a.capabilities().max_message_bytes;
    let large = Bytes::from(vec![1; max + 1]);
    let sending = a.send(b.local_peer(), CHANNEL, large.slice(1..));
    let (sent, arrived) = futures_util::join!(sending, b.incoming());
    sent.expect("a message of the declared size must be taken");
    assert_eq!(arrived.expect("it must arrive").message.len(), max);
    let refused = TransportError::TooLarge { size: max + 1, max };
    assert_eq!(a.send(b.local_peer(), CHANNEL, large.clone()).await, Err(refused.clone()));
    assert_eq!(a.request(b.local_peer(), CHANNEL, large, PATIENCE).await, Err(refused));
}

/// A peer that does not read makes senders `Busy` instead of exhausting the memory, and is reached again once
/// it reads.
pub async fn full_queues_say_so(harness: &dyn TransportHarness) {
    let Some(queue) = harness.queue_messages() else { return };
    let [a, b] = pair(harness).await;
    for _ in 0..queue {
        a.send(b.local_peer(), CHANNEL, Bytes::new()).await.expect("there is room");
    }
    let beyond = a.send(b.local_peer(), CHANNEL, Bytes::new()).await;
    assert_eq!(beyond, Err(TransportError::Busy(b.local_peer())));
    b.incoming().await.expect("an open transport goes on");
    a.send(b.local_peer(), CHANNEL, Bytes::new()).await.expect("there is room again");
}

/// Closing ends pending calls, rejects later ones, and may be done twice.
pub async fn closed_transports_say_so(harness: &dyn TransportHarness) {
    let [a, b] = pair(harness).await;
    let waiting = Arc::clone(&a);
    let receiving = tokio::spawn(async move { waiting.incoming().await.is_none() });
    let waiting = (Arc::clone(&a), b.local_peer());
    let asking =
        tokio::spawn(async move { waiting.0.request(waiting.1, CHANNEL, Bytes::new(), PATIENCE).await });
    let question = b.incoming().await.expect("the request arrives");
    a.close().await;
    a.close().await;
    assert!(receiving.await.expect("must not panic"), "whoever waits for messages must be told the end");
    assert_eq!(asking.await.expect("must not panic"), Err(TransportError::Closed));
    assert_eq!(a.send(b.local_peer(), CHANNEL, Bytes::new()).await, Err(TransportError::Closed));
    assert!(a.incoming().await.is_none());
    question.reply.expect("it was a request").send(Bytes::new());
}

/// Messages of a channel arrive in order, where that is declared.
pub async fn declared_order_is_kept(harness: &dyn TransportHarness) {
    const MESSAGES: u32 = 300;
    let [a, b] = pair(harness).await;
    if !a.capabilities().ordered {
        return;
    }
    let peer = b.local_peer();
    let sender = tokio::spawn(async move {
        for n in 0..MESSAGES {
            a.send(peer, CHANNEL, n.to_string().into()).await.expect("there is room");
        }
        a
    });
    for n in 0..MESSAGES {
        assert_eq!(b.incoming().await.expect("an open transport goes on").message, n.to_string());
    }
    sender.await.expect("the sender must not panic");
}

async fn case(name: &str, run: impl Future<Output = ()>) {
    if tokio::time::timeout(PATIENCE * 2, Box::pin(run)).await.is_err() {
        panic!("{name}: still not done after {:?}", PATIENCE * 2);
    }
}

async fn pair(harness: &dyn TransportHarness) -> [Arc<dyn Transport>; 2] {
    let members = harness.connect(2).await;
    members.try_into().expect("the harness must make as many members as it is asked for")
}

async fn echo(transport: Arc<dyn Transport>, times: usize) {
    for _ in 0..times {
        let question = transport.incoming().await.expect("an open transport goes on");
        let answer = [b"re: ", &question.message[..]].concat();
        question.reply.expect("a request can be answered").send(answer.into());
    }
}
