//! Four replicas of hotstuff_rs, each with its threads. A block has all commands that wait when it is made.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use hotstuff_rs::{
    app::{App, ProduceBlockRequest, ProduceBlockResponse, ValidateBlockRequest, ValidateBlockResponse},
    block_tree::pluggables::{KVGet, KVGetError, KVStore, WriteBatch},
    networking::{messages::Message, network::Network},
    replica::{Configuration, Replica, ReplicaSpec},
    types::{
        crypto_primitives::{CryptoHasher, Digest, SigningKey, VerifyingKey},
        data_types::{BufferSize, ChainID, CryptoHash, Data, Datum, EpochLength, Power},
        update_sets::{AppStateUpdates, ValidatorSetUpdates},
        validator_set::{ValidatorSet, ValidatorSetState},
    },
};
use tokio::{runtime::Runtime, sync::oneshot, time::timeout};

use crate::{Failure, Figures, Group, Load, load::closed_loop};

/// Commands that are not final, in the place of a pool that replicas keep alike among them.
#[derive(Default)]
struct Pool {
    waiting: Mutex<Vec<Datum>>,
    callers: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    next: AtomicU64,
    blocks: AtomicU64,
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    async fn propose(&self, command: Bytes) -> Result<(), Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, mut receiver) = oneshot::channel();
        locked(&self.callers).insert(number, sender);
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.extend(command);
        for _ in 0..10 {
            locked(&self.waiting).push(Datum::new(bytes.clone()));
            // A block that fell by the wayside is not made again.
            if let Ok(answer) = timeout(Duration::from_secs(1), &mut receiver).await {
                return Ok(answer?);
            }
        }
        Err("not final after ten tries".into())
    }

    fn done(&self, data: &Data) {
        let mut callers = locked(&self.callers);
        for datum in data.iter() {
            if let Some(number) = datum.bytes().first_chunk()
                && let Some(caller) = callers.remove(&u64::from_le_bytes(*number))
            {
                // A client that is gone does not mind.
                let _ = caller.send(());
            }
        }
    }
}

pub(crate) struct HotstuffGroup {
    runtime: Runtime,
    replicas: Vec<Replica<Store>>,
    pool: Arc<Pool>,
}

impl HotstuffGroup {
    pub(crate) fn start() -> Self {
        let pool = Arc::new(Pool::default());
        let keys: Vec<_> = (1..=4u8).map(|number| SigningKey::from_bytes(&[number; 32])).collect();
        let mut updates = ValidatorSetUpdates::new();
        let (mut peers, mut inboxes) = (HashMap::new(), Vec::new());
        for key in &keys {
            let (sender, receiver) = mpsc::channel();
            peers.insert(key.verifying_key(), sender);
            inboxes.push(receiver);
            updates.insert(key.verifying_key(), Power::new(1));
        }
        let mut set = ValidatorSet::new();
        set.apply_updates(&updates);
        let mut replicas = Vec::new();
        for (number, (key, inbox)) in keys.into_iter().zip(inboxes).enumerate() {
            let store = Store::default();
            let state = ValidatorSetState::new(set.clone(), set.clone(), None, true);
            Replica::initialize(store.clone(), AppStateUpdates::new(), state);
            let network =
                Mail { from: key.verifying_key(), peers: peers.clone(), inbox: Arc::new(Mutex::new(inbox)) };
            // As in its own tests, but for a larger buffer. A time of a view below a second would count as none.
            let configuration = Configuration::builder()
                .me(key)
                .chain_id(ChainID::new(0))
                .block_sync_request_limit(10)
                .block_sync_server_advertise_time(Duration::from_secs(10))
                .block_sync_response_timeout(Duration::from_secs(3))
                .block_sync_blacklist_expiry_time(Duration::from_secs(10))
                .block_sync_trigger_min_view_difference(2)
                .block_sync_trigger_timeout(Duration::from_secs(60))
                .progress_msg_buffer_capacity(BufferSize::new(64 << 20))
                .epoch_length(EpochLength::new(50))
                .max_view_time(Duration::from_secs(2))
                .log_events(false)
                .build();
            let pending: Mutex<HashMap<[u8; 32], Data>> = Mutex::default();
            let pending = Arc::new(pending);
            let (inserted, watched, first) = (pending.clone(), pool.clone(), number == 0);
            let replica = ReplicaSpec::builder()
                .app(Blocks(pool.clone()))
                .network(network)
                .kv_store(store)
                .configuration(configuration)
                .on_insert_block(move |event| {
                    if first {
                        locked(&inserted).insert(event.block.hash.bytes(), event.block.data.clone());
                    }
                })
                .on_commit_block(move |event| {
                    if first && let Some(data) = locked(&pending).remove(&event.block.bytes()) {
                        watched.blocks.fetch_add(1, Ordering::Relaxed);
                        watched.done(&data);
                    }
                })
                .build()
                .start();
            replicas.push(replica);
        }
        Self { runtime: Runtime::new().expect("the system has threads"), replicas, pool }
    }
}

impl Group for HotstuffGroup {
    fn run(&mut self, load: &Load) -> Result<Figures, Failure> {
        let before = self.pool.blocks.load(Ordering::Relaxed);
        let pool = self.pool.clone();
        let propose = move |command| {
            let pool = pool.clone();
            async move { pool.propose(command).await }
        };
        let mut figures = self.runtime.block_on(closed_loop(load, propose))?;
        figures.blocks = Some(self.pool.blocks.load(Ordering::Relaxed) - before);
        Ok(figures)
    }

    fn stop(self: Box<Self>) {
        drop(self.replicas);
    }
}

struct Blocks(Arc<Pool>);

fn hash(data: &Data) -> CryptoHash {
    let mut hasher = CryptoHasher::new();
    for datum in data.iter() {
        hasher.update(datum.bytes());
    }
    CryptoHash::new(hasher.finalize().into())
}

impl App<Store> for Blocks {
    fn produce_block(&mut self, _: ProduceBlockRequest<'_, Store>) -> ProduceBlockResponse {
        let data = Data::new(std::mem::take(&mut *locked(&self.0.waiting)));
        ProduceBlockResponse {
            data_hash: hash(&data),
            data,
            app_state_updates: None,
            validator_set_updates: None,
        }
    }

    fn validate_block(&mut self, request: ValidateBlockRequest<'_, '_, Store>) -> ValidateBlockResponse {
        self.validate_block_for_sync(request)
    }

    fn validate_block_for_sync(
        &mut self,
        request: ValidateBlockRequest<'_, '_, Store>,
    ) -> ValidateBlockResponse {
        let block = request.proposed_block();
        if block.data_hash != hash(&block.data) {
            return ValidateBlockResponse::Invalid;
        }
        ValidateBlockResponse::Valid { app_state_updates: None, validator_set_updates: None }
    }
}

type Inbox = mpsc::Receiver<(VerifyingKey, Message)>;

#[derive(Clone)]
struct Mail {
    from: VerifyingKey,
    peers: HashMap<VerifyingKey, mpsc::Sender<(VerifyingKey, Message)>>,
    inbox: Arc<Mutex<Inbox>>,
}

impl Network for Mail {
    fn init_validator_set(&mut self, _: ValidatorSet) {}

    fn update_validator_set(&mut self, _: ValidatorSetUpdates) {}

    fn broadcast(&mut self, message: Message) {
        for peer in self.peers.values() {
            // It may have stopped.
            let _ = peer.send((self.from, message.clone()));
        }
    }

    fn send(&mut self, peer: VerifyingKey, message: Message) {
        if let Some(peer) = self.peers.get(&peer) {
            let _ = peer.send((self.from, message));
        }
    }

    fn recv(&mut self) -> Option<(VerifyingKey, Message)> {
        locked(&self.inbox).try_recv().ok()
    }
}

type Pairs = HashMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Default)]
struct Store(Arc<Mutex<Pairs>>);

struct Batch(Vec<(Vec<u8>, Option<Vec<u8>>)>);

struct View<'a>(MutexGuard<'a, Pairs>);

impl KVStore for Store {
    type WriteBatch = Batch;
    type Snapshot<'a> = View<'a>;

    fn write(&mut self, batch: Batch) {
        let mut pairs = locked(&self.0);
        for (key, value) in batch.0 {
            match value {
                Some(value) => pairs.insert(key, value),
                None => pairs.remove(&key),
            };
        }
    }

    fn clear(&mut self) {
        locked(&self.0).clear();
    }

    fn snapshot<'b>(&'b self) -> View<'b> {
        View(locked(&self.0))
    }
}

/// What the trait itself has for this reads a block's data twice from one iterator, so that the second time finds none and
/// replicas that fell behind cannot catch up.
fn data_of(store: &impl KVGet, block: &CryptoHash) -> Result<Option<Data>, KVGetError> {
    let Some(length) = store.block_data_len(block)? else { return Ok(None) };
    let data: Option<Vec<_>> = (0..length.int()).map(|at| store.block_datum(block, at)).collect();
    Ok(data.map(Data::new))
}

impl KVGet for Store {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        locked(&self.0).get(key).cloned()
    }

    fn block_data(&self, block: &CryptoHash) -> Result<Option<Data>, KVGetError> {
        data_of(self, block)
    }
}

impl KVGet for View<'_> {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).cloned()
    }

    fn block_data(&self, block: &CryptoHash) -> Result<Option<Data>, KVGetError> {
        data_of(self, block)
    }
}

impl WriteBatch for Batch {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.0.push((key.to_vec(), Some(value.to_vec())));
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.push((key.to_vec(), None));
    }
}
