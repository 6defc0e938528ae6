//! The in-process network against the conformance suite, and its faults.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests too")]

use std::{collections::BTreeSet, num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use orch_core::{
    testkit::transport::{TransportHarness, run_all},
    transport::{
        Channel, Faults, InProcessConfig, InProcessNetwork, InProcessTransport, PeerId, Transport,
        TransportError,
    },
};

const CHANNEL: Channel = Channel(1);

struct InProcess(InProcessConfig);

#[async_trait]
impl TransportHarness for InProcess {
    async fn connect(&self, members: usize) -> Vec<Arc<dyn Transport>> {
        let network = InProcessNetwork::new(self.0.clone());
        (0..members).map(|n| Arc::new(network.join(id(n))) as Arc<dyn Transport>).collect()
    }

    fn queue_messages(&self) -> Option<usize> {
        Some(self.0.queue_messages.get())
    }
}

fn id(n: usize) -> PeerId {
    PeerId::from_bytes([u8::try_from(n).unwrap(); 32])
}

#[tokio::test(flavor = "multi_thread")]
async fn in_process_network_conforms() {
    run_all(&InProcess(InProcessConfig { max_message_bytes: 1 << 20, ..InProcessConfig::default() })).await;
}

fn two(config: InProcessConfig) -> (InProcessNetwork, InProcessTransport, InProcessTransport) {
    let network = InProcessNetwork::new(config);
    let (a, b) = (network.join(id(1)), network.join(id(2)));
    (network, a, b)
}

/// Sends 0..count while the faults are on, then `end` without faults, and returns what arrives before `end`.
async fn what_arrives(config: InProcessConfig, faults: Faults, count: u32) -> Vec<u32> {
    let (network, a, b) = two(config);
    network.set_faults(faults);
    for n in 0..count {
        a.send(id(2), CHANNEL, n.to_string().into()).await.unwrap();
    }
    // Time is paused in these tests: this passes at once, after everything that is due before.
    tokio::time::sleep(faults.delay_max * 3).await;
    network.heal();
    a.send(id(2), CHANNEL, Bytes::from_static(b"end")).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let message = b.incoming().await.unwrap().message;
        match std::str::from_utf8(&message).unwrap() {
            "end" => return seen,
            text => seen.push(text.parse().unwrap()),
        }
    }
}

fn roomy(ordered: bool, seed: u64) -> InProcessConfig {
    InProcessConfig {
        queue_messages: NonZeroUsize::new(10_000).unwrap(),
        ordered,
        seed,
        ..InProcessConfig::default()
    }
}

#[tokio::test(start_paused = true)]
async fn loss_and_duplication_follow_their_rates_and_the_seed() {
    let faults = Faults { loss_percent: 20, duplicate_percent: 30, ..Faults::default() };
    let seen = what_arrives(roomy(true, 1), faults, 1000).await;
    let once: BTreeSet<_> = seen.iter().collect();
    assert!((750..850).contains(&once.len()), "{} of 1000 arrived", once.len());
    let twice = seen.len() - once.len();
    assert!((180..300).contains(&twice), "{twice} arrived twice");
    assert_eq!(what_arrives(roomy(true, 1), faults, 1000).await, seen, "the same seed must do the same");
    assert_ne!(what_arrives(roomy(true, 2), faults, 1000).await, seen, "another seed must do something else");
}

#[tokio::test(start_paused = true)]
async fn delays_reorder_only_where_order_is_not_promised() {
    let faults = Faults {
        reorder_percent: 10,
        delay_min: Duration::from_millis(5),
        delay_max: Duration::from_millis(50),
        ..Faults::default()
    };
    let sent: Vec<_> = (0..200).collect();
    assert_eq!(what_arrives(roomy(true, 3), faults, 200).await, sent);
    let mut mixed = what_arrives(roomy(false, 3), faults, 200).await;
    assert_ne!(mixed, sent);
    mixed.sort_unstable();
    assert_eq!(mixed, sent, "delays must not lose anything");
}

#[tokio::test(start_paused = true)]
async fn delays_take_their_time_both_ways() {
    let (network, a, b) = two(InProcessConfig::default());
    let delay = Duration::from_millis(20);
    network.set_faults(Faults { delay_min: delay, delay_max: delay, ..Faults::default() });
    let begin = tokio::time::Instant::now();
    let asking = a.request(id(2), CHANNEL, Bytes::new(), Duration::from_secs(1));
    let answering = async { b.incoming().await.unwrap().reply.unwrap().send(Bytes::from_static(b"yes")) };
    let (answer, ()) = tokio::join!(asking, answering);
    assert_eq!(answer.unwrap(), "yes");
    assert!(begin.elapsed() >= delay * 2, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_one_way_block_lets_the_other_way_through() {
    let (network, a, b) = two(InProcessConfig::default());
    network.block(id(1), id(2));
    a.send(id(2), CHANNEL, Bytes::from_static(b"lost")).await.unwrap();
    b.send(id(1), CHANNEL, Bytes::from_static(b"through")).await.unwrap();
    assert_eq!(a.incoming().await.unwrap().message, "through");
    let answer = a.request(id(2), CHANNEL, Bytes::new(), Duration::from_millis(10)).await;
    assert_eq!(answer, Err(TransportError::Timeout(id(2))));
    network.heal();
    a.send(id(2), CHANNEL, Bytes::from_static(b"healed")).await.unwrap();
    assert_eq!(b.incoming().await.unwrap().message, "healed", "what was lost must stay lost");
}

#[tokio::test(start_paused = true)]
async fn a_partition_cuts_between_groups_only() {
    let network = InProcessNetwork::default();
    let members: Vec<_> = (0..5).map(|n| network.join(id(n))).collect();
    network.partition(&[&[id(0), id(1)], &[id(2), id(3)]]);
    for from in &members {
        for to in from.peers() {
            from.send(to, CHANNEL, Bytes::new()).await.unwrap();
        }
    }
    network.heal();
    for (n, member) in members.iter().enumerate() {
        network.join(id(99)).send(id(n), CHANNEL, Bytes::new()).await.unwrap();
        let mut heard = BTreeSet::new();
        while let Some(from) =
            member.incoming().await.map(|message| message.from).filter(|from| *from != id(99))
        {
            heard.insert(from);
        }
        let expected: &[usize] = [&[1, 4][..], &[0, 4], &[3, 4], &[2, 4], &[0, 1, 2, 3]][n];
        assert_eq!(heard, expected.iter().map(|n| id(*n)).collect(), "member {n}");
    }
}

#[tokio::test]
async fn a_member_that_restarts_takes_its_place_and_the_old_one_cannot_take_it_away() {
    let (network, a, old) = two(InProcessConfig::default());
    let new = network.join(id(2));
    drop(old);
    a.send(id(2), CHANNEL, Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(new.incoming().await.unwrap().message, "hello");
    new.close().await;
    assert_eq!(a.send(id(2), CHANNEL, Bytes::new()).await, Err(TransportError::UnknownPeer(id(2))));
}
