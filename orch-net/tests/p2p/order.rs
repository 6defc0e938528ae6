//! Priorities of channels, and order within a channel.

use bytes::Bytes;
use orch_core::transport::{Channel, Transport as _, TransportError};
use orch_net::p2p::PeerConfig;

use crate::{
    bench::{CHANNEL, pair, quick, receive},
    bounds::flood,
};

#[tokio::test]
async fn lower_channels_overtake_what_waits() {
    let config = PeerConfig { outgoing_messages_max: 1000, incoming_messages_max: 16, ..quick() };
    let (a, b) = pair(config).await;
    let flooded = flood(&a, &b).await;
    let full = a.send(b.local_peer(), CHANNEL, Bytes::new()).await;
    assert_eq!(full, Err(TransportError::Busy(b.local_peer())));
    a.send(b.local_peer(), Channel(0), "urgent".into()).await.unwrap();
    a.send(b.local_peer(), Channel(200), "leisurely".into()).await.unwrap();
    let mut arrived = Vec::new();
    for _ in 0..flooded + 2 {
        arrived.push(receive(&b).await.channel);
    }
    let behind = |channel| arrived.iter().skip_while(|other| **other != Channel(channel)).count();
    assert!(behind(0) >= 900, "it overtook what waited in the queue: {}", behind(0));
    assert!((1..behind(0)).contains(&behind(200)), "and not the other way round");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_any_size_keep_their_order() {
    let (a, b) = pair(quick()).await;
    let sizes = || (0..3000_usize).map(|n| if n % 100 == 0 { 5000 * (n / 100) } else { (n * 37) % 3000 });
    let to = b.local_peer();
    let sending = tokio::spawn(async move {
        for size in sizes() {
            let byte = u8::try_from(size % 251).unwrap();
            let message = Bytes::from(vec![byte; size]);
            while let Err(error) = a.send(to, CHANNEL, message.clone()).await {
                assert_eq!(error, TransportError::Busy(to));
                tokio::task::yield_now().await;
            }
        }
        a
    });
    for size in sizes() {
        let message = receive(&b).await.message;
        assert_eq!(message.len(), size);
        assert!(message.iter().all(|byte| usize::from(*byte) == size % 251), "bytes of another message");
    }
    sending.await.unwrap();
}
