//! A transport in parts: each part against the conformance suite, and the effects of parts on each other.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{num::NonZeroUsize, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use orch_core::{
    testkit::transport::{TransportHarness, run_all},
    transport::{
        Channel, ChannelTaken, Demux, DemuxConfig, DemuxTransport, InProcessConfig, InProcessNetwork, PeerId,
        Transport, TransportError,
    },
};

struct Parts(InProcessConfig);

#[async_trait]
impl TransportHarness for Parts {
    async fn connect(&self, members: usize) -> Vec<Arc<dyn Transport>> {
        let network = InProcessNetwork::new(self.0.clone());
        let part = |number| demux(&network, number, DemuxConfig::default()).open((0..=255).map(Channel));
        (0..members).map(|number| Arc::new(part(number).unwrap()) as Arc<dyn Transport>).collect()
    }

    fn queue_messages(&self) -> Option<usize> {
        Some(self.0.queue_messages.get())
    }
}

fn id(number: usize) -> PeerId {
    PeerId::from_bytes([u8::try_from(number).unwrap(); 32])
}

fn demux(network: &InProcessNetwork, number: usize, config: DemuxConfig) -> Demux {
    Demux::new(Arc::new(network.join(id(number))), config)
}

fn count(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

async fn next(part: &DemuxTransport) -> Bytes {
    part.incoming().await.unwrap().message
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_conforms() {
    run_all(&Parts(InProcessConfig { max_message_bytes: 1 << 20, ..InProcessConfig::default() })).await;
}

#[tokio::test]
async fn each_part_takes_its_own_messages_in_their_order() {
    let network = InProcessNetwork::default();
    let (sender, receiver) = (network.join(id(1)), demux(&network, 2, DemuxConfig::default()));
    let one = receiver.open([Channel(1), Channel(2)]).unwrap();
    let other = receiver.open([Channel(3)]).unwrap();
    for number in 0..30u8 {
        sender.send(id(2), Channel(1 + number % 3), vec![number].into()).await.unwrap();
    }
    for number in (0..30).filter(|number| number % 3 == 2) {
        assert_eq!(next(&other).await[..], [number]);
    }
    for number in (0..30).filter(|number| number % 3 != 2) {
        assert_eq!(next(&one).await[..], [number]);
    }
}

#[tokio::test]
async fn whoever_listens_wakes_the_others() {
    let network = InProcessNetwork::default();
    let (sender, receiver) = (network.join(id(1)), demux(&network, 2, DemuxConfig::default()));
    let (one, other) = (receiver.open([Channel(1)]).unwrap(), receiver.open([Channel(2)]).unwrap());
    // Both wait, the first of them receives for both; then the other way round.
    for channel in [2, 1, 1, 2, 2] {
        let (mut first, mut second) = (pin!(one.incoming()), pin!(other.incoming()));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        sender.send(id(2), Channel(channel), Bytes::from_static(b"x")).await.unwrap();
        let (came, at) = tokio::select! {
            came = first => (came, 1),
            came = second => (came, 2),
        };
        assert_eq!((came.unwrap().channel, at), (Channel(channel), channel));
    }
}

#[tokio::test]
async fn nothing_is_lost_when_a_listener_gives_up() {
    let network = InProcessNetwork::default();
    let (sender, receiver) = (network.join(id(1)), demux(&network, 2, DemuxConfig::default()));
    let (one, other) = (receiver.open([Channel(1)]).unwrap(), receiver.open([Channel(2)]).unwrap());
    for number in 0..20u8 {
        assert!(one.incoming().now_or_never().is_none());
        sender.send(id(2), Channel(2), vec![number].into()).await.unwrap();
        // It may have received the message for the other part, and ends here.
        assert!(one.incoming().now_or_never().is_none());
    }
    for number in 0..20 {
        assert_eq!(next(&other).await[..], [number]);
    }
}

#[tokio::test]
async fn a_channel_belongs_to_one_part_until_that_ends() {
    let network = InProcessNetwork::default();
    let receiver = demux(&network, 2, DemuxConfig::default());
    let part = receiver.open([Channel(1), Channel(2)]).unwrap();
    let refused = receiver.open([Channel(3), Channel(2)]).unwrap_err();
    assert_eq!(refused, ChannelTaken(Channel(2)));
    assert!(refused.to_string().contains("channel 2 is taken"), "{refused}");
    let third = receiver.open([Channel(3)]).expect("a refusal takes nothing");
    drop(part);
    let again = receiver.open([Channel(1), Channel(2)]).expect("it was dropped");
    again.close().await;
    assert!(again.incoming().await.is_none());
    assert_eq!(again.send(id(1), Channel(1), Bytes::new()).await, Err(TransportError::Closed));
    receiver.open([Channel(1), Channel(2)]).expect("it was closed");
    let sender = network.join(id(1));
    sender.send(id(2), Channel(3), Bytes::from_static(b"still here")).await.unwrap();
    assert_eq!(next(&third).await, "still here", "the transport and the other parts stay open");
}

#[tokio::test]
async fn a_part_that_does_not_listen_holds_nobody_up() {
    let network = InProcessNetwork::default();
    let config = DemuxConfig { queue_messages: count(3), queue_bytes: count(100) };
    let (sender, receiver) = (network.join(id(1)), demux(&network, 2, config));
    let (slow, quick) = (receiver.open([Channel(1)]).unwrap(), receiver.open([Channel(2)]).unwrap());
    for (round, bytes) in [(0, 1), (1, 60), (2, 200)] {
        for number in 0..6u8 {
            sender.send(id(2), Channel(1), vec![number; bytes].into()).await.unwrap();
        }
        sender.send(id(2), Channel(2), Bytes::from_static(b"quick")).await.unwrap();
        assert_eq!(next(&quick).await, "quick");
        // By number, by bytes, and one that exceeds the whole bound of bytes.
        for number in 0..[3, 1, 1][round] {
            assert_eq!(next(&slow).await[0], number);
        }
        assert!(slow.incoming().now_or_never().is_none(), "the others were dropped");
    }
}

#[tokio::test]
async fn closing_a_part_ends_its_requests() {
    let network = InProcessNetwork::default();
    let (_silent, asking) = (network.join(id(1)), demux(&network, 2, DemuxConfig::default()));
    let part = asking.open([Channel(1)]).unwrap();
    let ask = || part.request(id(1), Channel(1), Bytes::new(), Duration::from_secs(3600));
    let mut asked = pin!(ask());
    assert!(asked.as_mut().now_or_never().is_none());
    part.close().await;
    assert_eq!(asked.await, Err(TransportError::Closed));
    assert_eq!(ask().await, Err(TransportError::Closed));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_listens_to_is_lost() {
    let network = InProcessNetwork::default();
    let (sender, receiver) = (network.join(id(1)), demux(&network, 2, DemuxConfig::default()));
    let part = receiver.open([Channel(1)]).unwrap();
    let asked = sender.request(id(2), Channel(9), Bytes::new(), Duration::from_secs(1));
    tokio::select! {
        answer = asked => assert_eq!(answer, Err(TransportError::Timeout(id(2)))),
        incoming = part.incoming() => panic!("{incoming:?}"),
    }
}

#[tokio::test]
async fn all_parts_end_with_the_transport() {
    let network = InProcessNetwork::default();
    let transport: Arc<dyn Transport> = Arc::new(network.join(id(2)));
    let receiver = Demux::new(transport.clone(), DemuxConfig::default());
    let (one, other) = (receiver.open([Channel(1)]).unwrap(), receiver.open([Channel(2)]).unwrap());
    let closed = async { transport.close().await };
    let (first, second, ()) = tokio::join!(one.incoming(), other.incoming(), closed);
    assert!(first.is_none() && second.is_none());
    assert!(receiver.open([Channel(1)]).unwrap().incoming().await.is_none());
}
