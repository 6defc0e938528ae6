//! The store on a disk that fails and crashes on purpose.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use futures_util::StreamExt;
use orch_core::store::{CommitError, Key, Revision, StateStore, StoreError, Txn, Write};

use super::{RedbStore, RedbStoreConfig};

/// What reaches the disk, in order, with the acknowledgements in between.
#[derive(Clone, Debug)]
enum Step {
    Write { at: usize, data: Vec<u8> },
    Resize(usize),
    Sync,
    Acknowledged(Revision),
}

/// A disk in memory that remembers every step. Clones are the same disk.
#[derive(Clone, Debug, Default)]
struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// Syncs fail from now on.
    broken_sync: bool,
    /// Growing beyond this fails.
    room: Option<usize>,
}

impl SimDisk {
    fn with(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { bytes, ..State::default() })))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write { at, data } => bytes[*at..at + data.len()].copy_from_slice(data),
        Step::Resize(size) => bytes.resize(*size, 0),
        Step::Sync | Step::Acknowledged(_) => {}
    }
}

impl State {
    fn take(&mut self, step: Step) {
        apply(&mut self.bytes, &step);
        self.steps.push(step);
    }

    /// What a crash after `cut` steps leaves: all that was synced, and of the later writes an arbitrary part, some of
    /// them torn at a sector.
    fn after_crash(&self, cut: usize, seed: u64) -> Vec<u8> {
        let synced =
            self.steps[..cut].iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
        let mut bytes = Vec::new();
        self.steps[..synced].iter().for_each(|step| apply(&mut bytes, step));
        let mut random = seed ^ (cut as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for step in &self.steps[synced..cut] {
            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed ^= mixed >> 31;
            match (step, mixed % 3) {
                (Step::Write { .. } | Step::Resize(_), 0) => apply(&mut bytes, step),
                (Step::Write { at, data }, 1) => {
                    let torn = (usize::try_from(mixed >> 32).unwrap() % (data.len() + 1)) & !511;
                    let end = at + torn;
                    if end <= bytes.len() {
                        bytes[*at..end].copy_from_slice(&data[..torn]);
                    }
                }
                // A write beyond an end that was never made larger is lost with it.
                _ => {}
            }
            if let Step::Resize(size) = step {
                // The size of a file is metadata of its own: keep it, so that later writes have a place.
                bytes.resize((*size).max(bytes.len()), 0);
            }
        }
        bytes
    }
}

impl redb::StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.change(|state| state.bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.change(|state| {
            let found = state.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(found);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let size = usize::try_from(len).unwrap();
        self.change(|state| match state.room {
            Some(room) if size > room => Err(io::ErrorKind::StorageFull.into()),
            _ => {
                state.take(Step::Resize(size));
                Ok(())
            }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|state| match state.broken_sync {
            true => Err(io::Error::other("the disk is on fire")),
            false => {
                state.take(Step::Sync);
                Ok(())
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.change(|state| state.take(Step::Write { at, data: data.to_vec() }));
        Ok(())
    }
}

fn open(disk: &SimDisk) -> Result<RedbStore, StoreError> {
    let path = Path::new("simulated.redb");
    let database = super::guarded(path, || redb::Builder::new().create_with_backend(disk.clone()))?;
    RedbStore::start(RedbStoreConfig::new("simulated"), path, database)
}

fn put(key: &str, value: &str) -> Write {
    Write::put(Key::new(key).unwrap(), value.to_owned())
}

/// Commit number `n` writes three records at once, so that half of it would show.
fn numbered(n: u64) -> Txn {
    let n = n.to_string();
    Txn::of(vec![put("last", &n), put("mirror", &n), put(&format!("each/{n}"), &"x".repeat(700))])
}

async fn text(store: &RedbStore, key: &str) -> Option<String> {
    let entry = store.get(&Key::new(key).unwrap()).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_crash_at_any_write() {
    const COMMITS: u64 = 12;
    let disk = SimDisk::default();
    let store = open(&disk).unwrap();
    let made = disk.change(|state| state.steps.len());
    for n in 1..=COMMITS {
        let revision = store.commit(numbered(n)).await.unwrap();
        assert_eq!(revision, Revision(n));
        disk.change(|state| state.steps.push(Step::Acknowledged(revision)));
    }
    store.close().await.unwrap();

    let total = disk.change(|state| state.steps.len());
    assert!(total - made > 3 * 12, "too few steps to be a test: {total}");
    for cut in made..=total {
        let acknowledged = disk.change(|state| {
            let answers = state.steps[..cut].iter();
            answers.filter_map(|step| if let Step::Acknowledged(at) = step { Some(at.0) } else { None }).max()
        });
        for seed in 0..3 {
            let at = format!("crash after step {cut} of {total}, seed {seed}");
            let store = open(&SimDisk::with(disk.change(|state| state.after_crash(cut, seed))));
            let store = store.unwrap_or_else(|error| panic!("{at}: {error}"));
            let Revision(kept) = store.revision().await.unwrap();
            assert!(kept >= acknowledged.unwrap_or(0), "{at}: {kept} kept, {acknowledged:?} acknowledged");
            let expected = (kept > 0).then(|| kept.to_string());
            assert_eq!(text(&store, "last").await, expected, "{at}");
            assert_eq!(text(&store, "mirror").await, expected, "{at}: half a transaction");
            let each = store.scan("each/", None, 100).await.unwrap().entries.len() as u64;
            assert_eq!(each, kept, "{at}");
            let history = store.watch("", Revision::ZERO).await.unwrap().take(usize::try_from(kept).unwrap());
            let whole =
                history.all(|item| std::future::ready(item.is_ok_and(|batch| batch.writes.len() == 3)));
            assert!(whole.await, "{at}: the log must have every commit, as a whole");
            store.close().await.unwrap();
        }
    }
}

/// The store must say that it does not know, stop, end its watches with the error, and be well when opened again.
async fn stops_and_recovers(
    disk: &SimDisk,
    break_it: impl FnOnce(&mut State),
    mend: impl FnOnce(&mut State),
) {
    let store = open(disk).unwrap();
    store.commit(numbered(1)).await.unwrap();
    let watch = store.watch("last", Revision::ZERO).await.unwrap();
    disk.change(break_it);
    let failure = loop {
        let large = put("large", &"y".repeat(1 << 20));
        match store
            .commit(Txn::of(vec![large, put(&format!("fill/{}", next_number()), &"z".repeat(1 << 20))]))
            .await
        {
            Ok(_) => {}
            Err(CommitError::Store(error)) => break error,
            Err(conflict) => panic!("{conflict}"),
        }
    };
    assert!(failure.outcome_unknown() && !failure.is_retryable(), "{failure:?}");
    let cause = std::error::Error::source(&failure).unwrap().to_string();
    assert!(cause.contains("simulated.redb") && cause.contains("open the store again"), "{cause}");

    let Err(CommitError::Store(after)) = store.commit(numbered(2)).await else {
        panic!("a failed store must stop")
    };
    assert!(!after.outcome_unknown(), "nothing was tried: {after:?}");
    assert!(
        store.get(&Key::new("last").unwrap()).await.is_err(),
        "a failed store must not answer from memory"
    );
    let items: Vec<_> = watch.collect().await;
    assert!(
        items[0].is_ok() && items.last().unwrap().is_err(),
        "a watch must end with the failure: {items:?}"
    );
    store.close().await.unwrap();

    let synced = disk.change(|state| {
        mend(state);
        state.after_crash(state.steps.len(), 7)
    });
    for bytes in [disk.change(|state| state.bytes.clone()), synced] {
        let store = open(&SimDisk::with(bytes)).unwrap();
        assert_eq!(text(&store, "last").await.as_deref(), Some("1"), "what was acknowledged must be there");
        store.commit(numbered(2)).await.unwrap();
    }
}

fn next_number() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_stops_the_store_and_loses_nothing_acknowledged() {
    stops_and_recovers(&SimDisk::default(), |disk| disk.broken_sync = true, |disk| disk.broken_sync = false)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_store_and_loses_nothing_acknowledged() {
    let room = |disk: &mut State| disk.room = Some(disk.bytes.len() + (1 << 20));
    stops_and_recovers(&SimDisk::default(), room, |disk| disk.room = None).await;
}
