//! Chunks against a store that fails as planned.

use async_trait::async_trait;
use futures_util::FutureExt as _;
use parking_lot::Mutex as SyncMutex;
use proptest::{collection::vec, prelude::*};

use super::{
    OutputStream::{Stderr, Stdout},
    *,
};
use crate::store::{CommitId, MemoryStore, MemoryStoreConfig, Page, Position, Revision, Txn, Watch};

/// Fate of a commit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Refused,
    /// It fails, and has happened all the same.
    Unknown,
    /// It has happened or not, and there is no answer.
    Silent {
        happened: bool,
    },
}

/// A memory store whose next commits fail as planned, and that takes no transaction larger than one value may
/// be.
#[derive(Debug)]
struct Faulty {
    inner: MemoryStore,
    plan: SyncMutex<VecDeque<Fault>>,
}

impl Faulty {
    fn new(max_value_bytes: usize, max_txn_writes: usize) -> Arc<Self> {
        let config = MemoryStoreConfig { max_value_bytes, max_txn_writes, ..MemoryStoreConfig::default() };
        Arc::new(Self { inner: MemoryStore::new(config), plan: SyncMutex::default() })
    }

    fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        *self.plan.lock() = faults.into_iter().collect();
    }

    fn fault(&self) -> Fault {
        self.plan.lock().pop_front().unwrap_or(Fault::None)
    }
}

#[async_trait]
impl StateStore for Faulty {
    fn capabilities(&self) -> StoreCapabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.inner.get(key).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.inner.scan(prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        let size = |write: &Write| write.value.as_ref().map_or(0, Bytes::len);
        let max = self.capabilities().max_value_bytes;
        assert!(txn.writes.iter().map(size).sum::<usize>() <= max, "too large as a whole");
        let fault = self.fault();
        let happens = matches!(fault, Fault::None | Fault::Unknown | Fault::Silent { happened: true });
        let committed = if happens { self.inner.commit(txn).await? } else { Position::ZERO };
        match fault {
            Fault::None => Ok(committed),
            Fault::Silent { .. } => std::future::pending().await,
            Fault::Refused | Fault::Unknown => Err(CommitError::Store(StoreError::Backend {
                store: "faulty",
                operation: "a commit",
                retryable: true,
                outcome_unknown: fault == Fault::Unknown,
                source: Arc::new(std::io::Error::other("as planned")),
            })),
        }
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        self.inner.watch(prefix, from).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.inner.head().await
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        self.inner.outcome(id, since).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.inner.compact(before).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

/// Nothing here waits, except for a silent store.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing waits")
}

fn open(store: &Arc<Faulty>, bytes_max: u64) -> StoreOutput {
    now(StoreOutput::open(store.clone(), bytes_max)).unwrap()
}

fn attempts(count: usize) -> Vec<AttemptId> {
    let mut all: Vec<_> = std::iter::repeat_with(TaskId::generate).take(count).collect();
    all.sort();
    all.into_iter().map(|task| AttemptId { task, attempt: NonZeroU32::MIN }).collect()
}

/// The byte of any stream at `offset`.
fn byte(offset: u64) -> u8 {
    u8::try_from(offset % 251).unwrap()
}

fn chunk(attempt: AttemptId, stream: OutputStream, offset: u64, len: u64) -> NewOutput {
    let data = (offset..offset + len).map(byte).collect();
    NewOutput { attempt, limit: 1 << 20, stream, offset, time: None, data }
}

fn records(store: &Arc<Faulty>, prefix: &str) -> Vec<KeptOutput> {
    let page = now(store.scan(prefix, None, usize::MAX)).unwrap();
    page.entries.iter().map(|entry| decode(&entry.key, &entry.value).unwrap()).collect()
}

/// Keys of stored chunks, after their content was checked.
fn ranges(store: &Arc<Faulty>, attempt: AttemptId) -> Vec<(OutputStream, u64, u64)> {
    let chunks = records(store, &attempt_prefix(attempt)).into_iter();
    chunks
        .map(|chunk| {
            let end = chunk.offset + chunk.data.len() as u64;
            assert!(chunk.data.iter().copied().eq((chunk.offset..end).map(byte)), "{chunk:?}");
            (chunk.stream, chunk.offset, end)
        })
        .collect()
}

/// Content of the index, of each attempt and in total.
type Counted = (BTreeMap<AttemptId, (VecDeque<(u64, u64)>, u64, u64)>, u64);

fn counted(writer: &StoreOutput) -> Counted {
    let index = now(writer.index.lock());
    let of = |kept: &Kept| (kept.chunks.clone(), kept.bytes, kept.next_number);
    (index.attempts.iter().map(|(attempt, kept)| (*attempt, of(kept))).collect(), index.bytes)
}

#[test]
fn a_record_of_the_version_without_times_is_read() {
    let (store, all) = (Faulty::new(4 << 20, 1000), attempts(1));
    let old = Bytes::from_static(b"{\"v\":1,\"stream\":\"stdout\",\"offset\":0}\n\0\x01\x02");
    now(store.commit(Txn::of(vec![Write::put(chunk_key(all[0], 0), old.clone())]))).unwrap();
    let time = Some(Timestamp::from_millis(1_700_000_000_123));
    now(open(&store, 1 << 20).append(vec![NewOutput { time, ..chunk(all[0], Stdout, 0, 5) }])).unwrap();
    let shown: Vec<_> = records(&store, PREFIX).iter().map(|chunk| (chunk.offset, chunk.time)).collect();
    assert_eq!(shown, [(0, None), (3, time)]);
    assert_eq!(encode(Stdout, 0, None, b"\0\x01\x02"), old);
}

#[test]
fn small_pieces_become_one_and_the_order_of_both_streams_stays() {
    let (store, all) = (Faulty::new(4 << 20, 1000), attempts(2));
    let writer = open(&store, 1 << 30);
    let mut chunks: Vec<_> =
        (0..3000).flat_map(|at| all.iter().map(move |one| chunk(*one, Stdout, at, 1))).collect();
    chunks.push(chunk(all[0], Stderr, 0, 5));
    chunks.push(chunk(all[0], Stdout, 3000, 5));
    chunks.push(chunk(all[0], Stdout, 4000, 5));
    now(writer.write(chunks)).unwrap();
    assert_eq!(ranges(&store, all[1]), [(Stdout, 0, 3000)]);
    let ordered = [(Stdout, 0, 3000), (Stderr, 0, 5), (Stdout, 3000, 3005), (Stdout, 4000, 4005)];
    assert_eq!(ranges(&store, all[0]), ordered);
}

#[test]
fn chunks_are_no_larger_than_the_store_takes() {
    let (store, all) = (Faulty::new(1128, 1000), attempts(1));
    let writer = open(&store, 1 << 30);
    now(writer.write(vec![chunk(all[0], Stdout, 0, 2500)])).unwrap();
    assert_eq!(ranges(&store, all[0]), [(Stdout, 0, 1000), (Stdout, 1000, 2000), (Stdout, 2000, 2500)]);
}

#[test]
fn the_pieces_of_an_attempt_are_bounded_and_the_newest_stay() {
    let (store, all) = (Faulty::new(4 << 20, 1000), attempts(1));
    let writer = open(&store, 1 << 30);
    let written = CHUNKS_MAX as u64 + 100;
    for at in 0..written {
        now(writer.write(vec![chunk(all[0], Stdout, at, 1)])).unwrap();
    }
    let ranges = ranges(&store, all[0]);
    assert_eq!(ranges.len(), CHUNKS_MAX);
    assert_eq!(ranges.last(), Some(&(Stdout, written - 1, written)));
}

#[test]
fn what_pieces_take_beside_their_data_counts() {
    let store = Faulty::new(4 << 20, 1000);
    let writer = open(&store, 10_000);
    for attempt in attempts(200) {
        now(writer.write(vec![chunk(attempt, Stdout, 0, 1)])).unwrap();
    }
    assert_eq!(records(&store, PREFIX).len() as u64, 10_000 / cost(1));
}

#[test]
fn transactions_are_no_larger_than_the_store_takes() {
    for (max_value_bytes, max_txn_writes) in [(4 << 20, 16), (400, 1000)] {
        let (store, all) = (Faulty::new(max_value_bytes, max_txn_writes), attempts(2));
        let writer = open(&store, 200 * cost(10));
        let streams = |n| if n % 2 == 0 { Stdout } else { Stderr };
        let chunks = |one, first: u64| {
            (first..first + 150).map(|n| chunk(one, streams(n), n / 2 * 10, 10)).collect::<Vec<_>>()
        };
        now(writer.write(chunks(all[0], 0))).unwrap();
        assert_eq!(ranges(&store, all[0]).len(), 150);
        now(writer.write(chunks(all[1], 0))).expect("a whole attempt frees space");
        assert!(ranges(&store, all[0]).is_empty());
        let mut last = chunk(all[1], Stdout, 750, 10);
        last.limit = 20;
        now(writer.write(vec![last])).expect("much is dropped at a time");
        assert_eq!(ranges(&store, all[1]).len(), 2);
    }
}

/// One scripted write: new chunks, and the fate of its commits.
fn step() -> impl Strategy<Value = (Vec<(usize, bool, u64)>, Vec<Fault>)> {
    let fault = prop_oneof![
        3 => Just(Fault::None),
        1 => Just(Fault::Refused),
        1 => Just(Fault::Unknown),
        1 => any::<bool>().prop_map(|happened| Fault::Silent { happened }),
    ];
    (vec((0..3_usize, any::<bool>(), 1..40_u64), 1..8), vec(fault, 0..4))
}

proptest! {
    /// Chunks that were not acknowledged are sent again with those that came meanwhile. Afterwards the index
    /// says what the store holds, and the store holds the newest of what was sent, once.
    #[test]
    fn a_failed_write_counts_nothing_twice(steps in vec(step(), 1..25)) {
        let (store, all) = (Faulty::new(400, 4), attempts(3));
        let writer = open(&store, 2500);
        let mut ends: BTreeMap<(AttemptId, OutputStream), u64> = BTreeMap::new();
        let mut unanswered = Vec::new();
        for (chunks, faults) in steps {
            for (at, first, len) in chunks {
                let key = (all[at], if first { Stdout } else { Stderr });
                let end = ends.entry(key).or_default();
                unanswered.push((key, *end, len));
                *end += len;
            }
            let send = || {
                let chunk = |((attempt, stream), offset, len): &((_, _), _, _)| {
                    NewOutput { limit: 300, ..chunk(*attempt, *stream, *offset, *len) }
                };
                let chunks = unanswered.iter().map(chunk).collect();
                matches!(writer.write(chunks).now_or_never(), Some(Ok(())))
            };
            store.plan(faults);
            let mut answered = send();
            // It goes on with the next step, or fails again before.
            if !answered && unanswered.len() % 2 == 0 {
                answered = send();
            }
            if answered {
                unanswered.clear();
                prop_assert_eq!(counted(&writer), counted(&open(&store, 2500)));
            }
        }
        store.plan([]);
        let last = all[0];
        let end = ends.entry((last, Stdout)).or_default();
        unanswered.push(((last, Stdout), *end, 7));
        *end += 7;
        let chunks = unanswered.iter().map(|((attempt, stream), offset, len)| {
            NewOutput { limit: 300, ..chunk(*attempt, *stream, *offset, *len) }
        });
        now(writer.write(chunks.collect())).unwrap();
        prop_assert_eq!(counted(&writer), counted(&open(&store, 2500)));
        for attempt in all {
            for stream in [Stdout, Stderr] {
                let mut ranges = ranges(&store, attempt);
                ranges.retain(|(of, ..)| *of == stream);
                prop_assert!(ranges.windows(2).all(|pair| pair[0].2 <= pair[1].1), "twice: {ranges:?}");
                if let Some((.., end)) = ranges.last() {
                    prop_assert_eq!(Some(end), ends.get(&(attempt, stream)), "the newest is missing");
                }
            }
        }
    }
}

/// Two members of one store, as over a server. An agent that turns from one to the other loses nothing.
#[test]
fn members_go_on_where_another_one_stopped() {
    let store = Arc::new(Shared(MemoryStore::default()));
    let open = || now(StoreOutput::open(store.clone(), 1 << 30)).unwrap();
    let (one, other) = (open(), open());
    let attempt = attempts(1)[0];
    for (at, member) in [&one, &other, &other, &one, &one, &other].into_iter().enumerate() {
        now(member.append(vec![chunk(attempt, Stdout, at as u64 * 10, 10)])).unwrap();
    }
    for member in [&one, &other] {
        let page = now(member.read(attempt.task, None)).unwrap();
        let offsets: Vec<u64> = page.chunks.iter().map(|chunk| chunk.offset).collect();
        assert_eq!(offsets, [0, 10, 20, 30, 40, 50]);
    }
}

/// A memory store that says that others use it, too.
#[derive(Debug)]
struct Shared(MemoryStore);

#[async_trait]
impl StateStore for Shared {
    fn capabilities(&self) -> StoreCapabilities {
        self.0.capabilities().shared(true)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.0.get(key).await
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.0.scan(prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        self.0.commit(txn).await
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        self.0.watch(prefix, from).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.0.head().await
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        self.0.outcome(id, since).await
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        self.0.compact(before).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.0.close().await
    }
}

/// Output of an older form is moved, again where that was cut short, and what has no task is dropped.
#[test]
fn what_a_store_holds_is_moved_out_of_it() {
    let (store, all) = (Faulty::new(4 << 20, 1000), attempts(3));
    let written = open(&store, 1 << 30);
    let chunks = |one: AttemptId| (0..200_u64).map(move |at| chunk(one, Stdout, at * 10, 5));
    now(written.append(all.iter().flat_map(|one| chunks(*one)).collect())).unwrap();
    let to = crate::output::MemoryOutput::new(1 << 30);
    let limit = |attempt: AttemptId| (attempt != all[1]).then_some(1 << 20);
    store.plan([Fault::None, Fault::Refused]);
    now(move_out(&*store, &to, limit)).unwrap_err();
    assert!(!records(&store, PREFIX).is_empty(), "cut short");
    now(move_out(&*store, &to, limit)).unwrap();
    assert_eq!(records(&store, PREFIX), []);
    assert_eq!(now(to.tasks()), [all[0].task, all[2].task]);
    for attempt in [all[0], all[2]] {
        let page = now(to.read(attempt.task, None)).unwrap();
        let offsets: Vec<u64> = page.chunks.iter().map(|chunk| chunk.offset).collect();
        assert_eq!(offsets, (0..200).map(|at| at * 10).collect::<Vec<_>>(), "each once");
    }
}
