use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use orch_core::{
    store::{Key, StateStore as _, Txn, Write},
    transport::{
        Channel, InProcessConfig, InProcessNetwork, InProcessTransport, Incoming, PeerId, Transport,
        TransportCapabilities, TransportError,
    },
};
use orch_store::crdt::{AuthorKey, CrdtStore, CrdtStoreConfig, Hash, ReplicaConfig, Status};
use tokio::runtime::Runtime;

use crate::{Pair, Transaction};

/// The crate `orch-store`, on a network in this process that is cut except while they sync.
pub struct Stores {
    runtime: Runtime,
    network: InProcessNetwork,
    travelled: Arc<AtomicU64>,
    stores: [CrdtStore; 2],
}

impl Stores {
    fn cut(&self) {
        let [ours, theirs] = self.stores.each_ref().map(CrdtStore::author);
        self.network.partition(&[&[ours], &[theirs]]);
    }

    /// Puts a new disk into number 0, and waits until it has everything again, its own writes too.
    pub fn replace_disk(&mut self, directory: &Path) {
        self.runtime.block_on(self.stores[0].close()).expect("it closes");
        self.network.heal();
        self.stores[0] = open(&self.runtime, &self.network, &self.travelled, 0, directory);
        let has_all = |of| self.position(of, 0) == self.position(of, 1);
        self.wait(|| has_all(0) && has_all(1) && self.status(0).whole);
        self.cut();
    }

    fn status(&self, at: usize) -> Status {
        self.runtime.block_on(self.stores[at].status()).expect("a store that works")
    }

    fn wait(&self, what: impl Fn() -> bool) {
        while !what() {
            self.runtime.block_on(async { tokio::time::sleep(Duration::from_micros(500)).await });
        }
    }

    fn position(&self, of: usize, at: usize) -> u64 {
        let author = self.stores[of].author();
        let status = self.status(at);
        status.authors.iter().find(|known| known.id == author).map_or(0, |known| known.head.position)
    }
}

/// Opens one of the two.
fn open(
    runtime: &Runtime,
    network: &InProcessNetwork,
    travelled: &Arc<AtomicU64>,
    at: usize,
    directory: &Path,
) -> CrdtStore {
    let key = |seed| AuthorKey::from_seed(&[seed; 32]);
    let members = [1, 2].map(|seed| key(seed).author());
    let key = key([1, 2][at]);
    // What was pushed while the network was cut is never on its way: waiting for it would be all that is
    // measured.
    let patience = Duration::ZERO;
    let replica = ReplicaConfig { patience, ..ReplicaConfig::new(Hash::of(b"benches"), members.to_vec()) };
    let digest_interval = Duration::from_millis(5);
    let config = CrdtStoreConfig { digest_interval, ..CrdtStoreConfig::new(directory, replica) };
    let transport = Counted { inner: network.join(key.author()), sent: Arc::clone(travelled) };
    let store = CrdtStore::open_on(config, key, Arc::new(transport), Channel(0));
    runtime.block_on(store).expect("a store")
}

impl Pair for Stores {
    const NAME: &'static str = "orch-store";

    fn open(directories: [&Path; 2]) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let network = InProcessNetwork::new(InProcessConfig::default());
        let travelled = Arc::new(AtomicU64::new(0));
        let stores = [0, 1].map(|at| open(&runtime, &network, &travelled, at, directories[at]));
        let pair = Self { runtime, network, travelled, stores };
        // A member writes once it has heard another.
        pair.wait(|| pair.status(0).writes.is_ok() && pair.status(1).writes.is_ok());
        pair.cut();
        pair
    }

    fn put(&mut self, at: usize, transactions: Vec<Transaction>) {
        let write = |(at, value)| Write::put(Key::new(at).expect("a key"), value);
        let commits = transactions
            .into_iter()
            .map(|records| self.stores[at].commit(Txn::of(records.into_iter().map(write).collect())));
        let committed = self.runtime.block_on(async { futures_util::future::try_join_all(commits).await });
        committed.expect("a store that works");
    }

    fn sync(&mut self) -> u64 {
        let before = self.travelled.load(Ordering::Relaxed);
        let goal = self.position(1, 1);
        self.network.heal();
        self.wait(|| self.position(1, 0) == goal);
        self.cut();
        self.travelled.load(Ordering::Relaxed) - before
    }

    fn settle(&mut self) {
        self.network.heal();
        let settled = |at| {
            let status = self.status(at);
            status.authors.iter().all(|author| author.acknowledged == author.head.position)
        };
        self.wait(|| settled(0) && settled(1) && self.position(1, 0) == self.position(1, 1));
        self.cut();
    }

    fn count(&mut self, at: usize) -> usize {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.stores[at].scan("", after.as_ref(), 10_000);
            let page = self.runtime.block_on(page).expect("a store that works");
            count += page.entries.len();
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                return count;
            }
        }
    }

    fn compact(&mut self, _: usize) {
        // It does so by itself once both know that they have all.
        self.settle();
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("stores", &self.stores).finish_non_exhaustive()
    }
}

/// Counts the bytes of what is sent while the network is not cut.
#[derive(Debug)]
struct Counted {
    inner: InProcessTransport,
    sent: Arc<AtomicU64>,
}

#[async_trait]
impl Transport for Counted {
    fn capabilities(&self) -> TransportCapabilities {
        self.inner.capabilities()
    }

    fn local_peer(&self) -> PeerId {
        self.inner.local_peer()
    }

    async fn send(&self, peer: PeerId, channel: Channel, message: Bytes) -> Result<(), TransportError> {
        self.sent.fetch_add(message.len() as u64, Ordering::Relaxed);
        self.inner.send(peer, channel, message).await
    }

    async fn request(
        &self,
        peer: PeerId,
        channel: Channel,
        message: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, TransportError> {
        self.sent.fetch_add(message.len() as u64, Ordering::Relaxed);
        self.inner.request(peer, channel, message, timeout).await
    }

    async fn incoming(&self) -> Option<Incoming> {
        self.inner.incoming().await
    }

    fn peers(&self) -> Vec<PeerId> {
        self.inner.peers()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
