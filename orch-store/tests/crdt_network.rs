//! Several signed stores, each on a disk of its own, over a network that loses and repeats.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{
    num::NonZeroU64,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use orch_core::{
    store::{CommitError, Key, Position, StateStore, Txn, Write},
    transport::{
        Channel, Demux, DemuxConfig, Faults, InProcessConfig, InProcessNetwork, Incoming, PeerId, Transport,
        TransportCapabilities, TransportError,
    },
};
use orch_store::crdt::{
    AuthorKey, CrdtStore, CrdtStoreConfig, Decision, Hash, Head, Owned, ReplicaConfig, Status,
};

const CHANNEL: Channel = Channel(7);

fn author(seed: u8) -> AuthorKey {
    AuthorKey::from_seed(&[seed; 32])
}

fn id(seed: u8) -> PeerId {
    author(seed).author()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn put(at: &str, value: impl Into<Bytes>) -> Txn {
    Txn::of(vec![Write::put(key(at), value)])
}

fn config(dir: &Path, seed: u8, members: &[u8]) -> CrdtStoreConfig {
    let members = members.iter().map(|seed| id(*seed)).collect();
    let replica = ReplicaConfig {
        request_grace: Duration::from_millis(30),
        answer_timeout: Duration::from_millis(150),
        ..ReplicaConfig::new(Hash::of(b"a group of tests"), members)
    };
    let dir = dir.join(seed.to_string());
    CrdtStoreConfig { digest_interval: Duration::from_millis(15), ..CrdtStoreConfig::new(dir, replica) }
}

async fn open(network: &InProcessNetwork, dir: &Path, seed: u8, members: &[u8]) -> CrdtStore {
    let demux = Demux::new(Arc::new(network.join(id(seed))), DemuxConfig::default());
    let transport = Arc::new(demux.open([CHANNEL]).unwrap());
    CrdtStore::open_on(config(dir, seed, members), author(seed), transport, CHANNEL).await.unwrap()
}

/// Commits, again where the store says that this may work.
async fn commit(store: &CrdtStore, txn: Txn) -> Position {
    loop {
        match store.commit(txn.clone()).await {
            Ok(revision) => return revision,
            Err(CommitError::Store(error)) if error.is_retryable() => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Waits until a key has a value here.
async fn sees(store: &CrdtStore, at: &str, value: &str) {
    let mut watch = store.watch(at, store.head().await.unwrap()).await.unwrap();
    while store.get(&key(at)).await.unwrap().is_none_or(|entry| entry.value != value) {
        watch.next().await.unwrap().unwrap();
    }
}

async fn status_with(store: &CrdtStore, fits: impl Fn(&Status) -> bool) -> Status {
    loop {
        let status = store.status().await.unwrap();
        if fits(&status) {
            return status;
        }
        tokio::task::yield_now().await;
    }
}

async fn view(store: &CrdtStore) -> Vec<(String, Bytes)> {
    let page = store.scan("", None, usize::MAX).await.unwrap();
    page.entries.into_iter().map(|entry| (entry.key.to_string(), entry.value)).collect()
}

/// Longer than any test takes on a slow machine, so that a hang has a name.
async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), Box::pin(work)).await.expect("it takes too long")
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_reach_all_members_over_a_bad_network() {
    within(async {
        let dir = tempfile::tempdir().unwrap();
        let network = InProcessNetwork::new(InProcessConfig { ordered: false, ..InProcessConfig::default() });
        let members = [1, 2, 3];
        let mut stores = Vec::new();
        for seed in members {
            stores.push(Arc::new(open(&network, dir.path(), seed, &members).await));
        }
        network.set_faults(Faults {
            loss_percent: 20,
            duplicate_percent: 20,
            reorder_percent: 20,
            delay_max: Duration::from_millis(5),
            ..Faults::default()
        });
        let writers = stores.iter().zip(members).map(|(store, seed)| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                for n in 0..60 {
                    commit(&store, put(&format!("shared/{}", n % 7), format!("{seed}-{n}"))).await;
                    commit(&store, put(&format!("own/{seed}/{n}"), "x")).await;
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        network.partition(&[&[id(1)], &[id(2), id(3)]]);
        commit(&stores[0], put("apart", "1")).await;
        commit(&stores[1], put("apart", "2")).await;
        network.heal();
        for store in &stores {
            for seed in members {
                sees(store, &format!("own/{seed}/59"), "x").await;
            }
            commit(store, put(&format!("end/{}", store.author()), "x")).await;
        }
        for store in &stores {
            for other in &stores {
                sees(store, &format!("end/{}", other.author()), "x").await;
            }
        }
        let expected = view(&stores[0]).await;
        assert_eq!(expected.len(), 3 * 60 + 7 + 1 + 3);
        for store in &stores {
            assert_eq!(view(store).await, expected);
            assert!(store.evidence().await.unwrap().is_empty());
            store.close().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_and_who_is_new_get_what_is_left() {
    within(async {
        let dir = tempfile::tempdir().unwrap();
        let network = InProcessNetwork::default();
        let mut stores = Vec::new();
        for seed in [1, 2] {
            stores.push(open(&network, dir.path(), seed, &[1, 2]).await);
        }
        let away = stores.pop().unwrap();
        let stays = stores.pop().unwrap();
        commit(&stays, put("deleted", "x")).await;
        sees(&away, "deleted", "x").await;
        away.close().await.unwrap();
        drop(away);
        // The other forgets history that the one who is away has never had.
        stays.close().await.unwrap();
        drop(stays);
        let mut short = config(dir.path(), 1, &[1, 2]);
        (short.replica.offline_after, short.replica.startup_quorum) = (Duration::ZERO, 0);
        // What watches may still ask for is not forgotten either.
        short.history_revisions = NonZeroU64::new(8).unwrap();
        let demux = Demux::new(Arc::new(network.join(id(1))), DemuxConfig::default());
        let transport = Arc::new(demux.open([CHANNEL]).unwrap());
        let stays = CrdtStore::open_on(short, author(1), transport, CHANNEL).await.unwrap();
        for round in 0..40 {
            let writes = (0..50).map(|n| Write::put(key(&format!("k/{n}")), format!("{round}"))).collect();
            commit(&stays, Txn::of(writes)).await;
        }
        commit(&stays, Txn::of(vec![Write::delete(key("deleted"))])).await;
        let end = commit(&stays, put("end", "x")).await;
        assert!(end.revision.0 >= 42);

        let back = open(&network, dir.path(), 2, &[1, 2]).await;
        sees(&back, "end", "x").await;
        status_with(&back, |status| status.complete).await;
        assert_eq!(view(&back).await, view(&stays).await);
        assert!(back.head().await.unwrap().revision.0 < 35, "it got what is left, not all that ever was");

        let new = open(&network, dir.path(), 3, &[1, 2]).await;
        for store in [&stays, &back, &new] {
            store.apply(1, Decision::Join { author: id(3) }).await.unwrap().unwrap();
        }
        commit(&new, put("new", "here")).await;
        sees(&stays, "new", "here").await;
        sees(&back, "new", "here").await;
        // Without digests of others it does not know that something is missing.
        sees(&new, "end", "x").await;
        status_with(&new, |status| status.complete).await;
        assert_eq!(view(&new).await, view(&stays).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_by_a_decision() {
    within(async {
        let dir = tempfile::tempdir().unwrap();
        let network = InProcessNetwork::default();
        let first = open(&network, dir.path(), 1, &[1, 2]).await;
        let second = open(&network, dir.path(), 2, &[1, 2]).await;
        let owned = Owned::key(id(1), "usage").unwrap();
        commit(&first, Txn::of(vec![Write::put(owned.clone(), "old key")])).await;
        sees(&second, owned.as_str(), "old key").await;
        first.close().await.unwrap();
        drop(first);
        let head = second.status().await.unwrap().authors.into_iter().find(|author| author.id == id(1));
        let end: Head = head.unwrap().head;
        let rotate = Decision::Rotate { old: id(1), end, new: id(9) };
        second.apply(1, rotate.clone()).await.unwrap().unwrap();
        // The same disk, under the new key.
        std::fs::rename(dir.path().join("1"), dir.path().join("9")).unwrap();
        let first = open(&network, dir.path(), 9, &[1, 2]).await;
        first.apply(1, rotate).await.unwrap().unwrap();
        commit(&first, Txn::of(vec![Write::put(owned.clone(), "new key")])).await;
        sees(&second, owned.as_str(), "new key").await;
    })
    .await;
}

/// Counts what goes out.
#[derive(Debug)]
struct Counting(Arc<dyn Transport>, Arc<AtomicUsize>);

#[async_trait]
impl Transport for Counting {
    fn capabilities(&self) -> TransportCapabilities {
        self.0.capabilities()
    }

    fn local_peer(&self) -> PeerId {
        self.0.local_peer()
    }

    async fn send(&self, peer: PeerId, channel: Channel, message: Bytes) -> Result<(), TransportError> {
        self.1.fetch_add(message.len(), Ordering::Relaxed);
        self.0.send(peer, channel, message).await
    }

    async fn request(
        &self,
        peer: PeerId,
        channel: Channel,
        message: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        self.0.request(peer, channel, message, timeout).await
    }

    async fn incoming(&self) -> Option<Incoming> {
        self.0.incoming().await
    }

    fn peers(&self) -> Vec<PeerId> {
        self.0.peers()
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_over_the_network_is_hardly_more_than_what_changed() {
    const KEYS: usize = 20_000;
    within(async {
        let dir = tempfile::tempdir().unwrap();
        let network = InProcessNetwork::default();
        let sent = Arc::new(AtomicUsize::new(0));
        let mut stores = Vec::new();
        for seed in [1, 2] {
            let transport = Arc::new(Counting(Arc::new(network.join(id(seed))), Arc::clone(&sent)));
            let config = config(dir.path(), seed, &[1, 2]);
            stores.push(CrdtStore::open_on(config, author(seed), transport, CHANNEL).await.unwrap());
        }
        let writes = |range: std::ops::Range<usize>, value: u8| {
            Txn::of(range.map(|n| Write::put(key(&format!("nodes/{n:06}")), vec![value; 100])).collect())
        };
        commit(&stores[0], writes(0..KEYS, 1)).await;
        commit(&stores[0], put("filled", "x")).await;
        sees(&stores[1], "filled", "x").await;
        for (round, apart) in [(2, false), (3, true)] {
            // Pushed as it is written, and fetched after a partition.
            if apart {
                network.partition(&[&[id(1)], &[id(2)]]);
            }
            let changed = KEYS / 100 * 5;
            sent.store(0, Ordering::Relaxed);
            commit(&stores[0], writes(0..changed, round)).await;
            if apart {
                // What was pushed has left, and is lost.
                while sent.load(Ordering::Relaxed) < changed * 100 {
                    tokio::task::yield_now().await;
                }
                sent.store(0, Ordering::Relaxed);
                network.heal();
            }
            let end = format!("{round}");
            commit(&stores[0], put("end", end.clone())).await;
            sees(&stores[1], "end", &end).await;
            let (sent, payload) = (sent.load(Ordering::Relaxed), changed * (100 + "nodes/000000".len()));
            assert!(sent * 2 <= payload * 3, "{sent} bytes were sent for {payload} that changed");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_that_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let small =
        InProcessNetwork::new(InProcessConfig { max_message_bytes: 1 << 20, ..InProcessConfig::default() });
    let good = InProcessNetwork::default();
    for (network, seed, says) in [(&small, 1, "raise its limit"), (&good, 2, "the same key")] {
        let transport = Arc::new(network.join(id(seed)));
        let opened = CrdtStore::open_on(config(dir.path(), 1, &[1]), author(1), transport, CHANNEL).await;
        let error = opened.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(says), "{cause}");
    }
}
