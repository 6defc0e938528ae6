//! The store on a disk that fails and crashes on purpose.

use std::path::Path;

use futures_util::StreamExt;
use orch_core::{
    model::Moment,
    store::{CommitError, Key, Position, Revision, StateStore, StoreError, Txn, Write},
};

use super::{CrdtStore, CrdtStoreConfig};
use crate::{
    crdt::{
        AuthorKey, Decision, Hash, ReplicaConfig,
        message::Message,
        replica::{Effect, Replica},
        tables::MemoryTables,
    },
    file_store::redb_file::sim_disk::{SimDisk, Step},
};

fn author(seed: u8) -> AuthorKey {
    AuthorKey::from_seed(&[seed; 32])
}

fn config() -> ReplicaConfig {
    let members = vec![author(1).author(), author(2).author()];
    ReplicaConfig { startup_quorum: 0, ..ReplicaConfig::new(Hash::of(b"a group of tests"), members) }
}

fn open(disk: &SimDisk) -> Result<(CrdtStore, super::writer::Outgoing), StoreError> {
    let path = Path::new("simulated.redb");
    let database =
        crate::file_store::redb_file::open(path, || redb::Builder::new().create_with_backend(disk.clone()))?;
    CrdtStore::start(CrdtStoreConfig::new("simulated", config()), author(1), path, database)
}

fn put(key: &str, value: &str) -> Write {
    Write::put(Key::new(key).unwrap(), value.to_owned())
}

async fn text(store: &CrdtStore, key: &str) -> Option<String> {
    let entry = store.get(&Key::new(key).unwrap()).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

/// The other member, which is never on a disk: its writes arrive as messages.
struct Peer {
    replica: Replica,
    tables: MemoryTables,
    now: Moment,
}

impl Peer {
    fn new() -> Self {
        let mut tables = MemoryTables::default();
        let replica = Replica::open(&mut tables, config(), author(2)).unwrap().unwrap();
        let wall = orch_core::model::Timestamp::now();
        Self { replica, tables, now: Moment { elapsed: std::time::Duration::ZERO, wall } }
    }

    fn write(&mut self, txn: Txn) -> Message {
        let mut out = Vec::new();
        self.replica.write(&mut self.tables, self.now, [txn], &mut out).unwrap();
        let sent = out.into_iter().find_map(|effect| match effect {
            Effect::Send(_, message) => Some(message),
            _ => None,
        });
        sent.unwrap()
    }

    fn receives(&mut self, message: Message) {
        self.replica
            .receive(&mut self.tables, self.now, author(1).author(), message, &mut Vec::new())
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_or_sent_is_lost_by_a_crash_at_any_write() {
    const COMMITS: u64 = 8;
    let disk = SimDisk::default();
    let (store, mut outgoing) = open(&disk).unwrap();
    let made = disk.change(|state| state.steps.len());
    let mut peer = Peer::new();
    // Each round is one commit of our own and one segment of the other: half of either would show.
    for n in 1..=COMMITS {
        let n = n.to_string();
        let own = vec![put("last", &n), put("mirror", &n), put(&format!("each/{n}"), &"x".repeat(300))];
        let revision = store.commit(Txn::of(own)).await.unwrap();
        disk.change(|state| state.steps.push(Step::Acknowledged(revision.revision)));
        let theirs = vec![put("theirs", &n), put("theirs-mirror", &n), put("shared", &n)];
        let message = peer.write(Txn::of(theirs));
        let mut watch = store.watch("theirs", revision).await.unwrap();
        let permits = store.messages.acquire(0).await.unwrap();
        let message = message.encode().into();
        store.writer.jobs().send(super::Job::Receive { from: author(2).author(), message, permits }).unwrap();
        let seen = watch.next().await.unwrap().unwrap().position.revision;
        disk.change(|state| state.steps.push(Step::Acknowledged(seen)));
    }
    store.close().await.unwrap();
    let mut sent = Vec::new();
    while let Some((_, message, _)) = outgoing.recv().await {
        sent.push(Message::decode(message).unwrap());
    }

    let total = disk.change(|state| state.steps.len());
    assert!(total - made > 100, "too few steps to be a test: {total}");
    for cut in made..=total {
        let acknowledged = disk.change(|state| {
            let answers = state.steps[..cut].iter();
            answers.filter_map(|step| if let Step::Acknowledged(at) = step { Some(at.0) } else { None }).max()
        });
        for seed in 0..2 {
            let at = format!("crash after step {cut} of {total}, seed {seed}");
            let store = open(&SimDisk::with(disk.change(|state| state.after_crash(cut, seed))));
            let (store, _) = store.unwrap_or_else(|error| panic!("{at}: {error}"));
            let Revision(kept) = store.head().await.unwrap().revision;
            assert!(kept >= acknowledged.unwrap_or(0), "{at}: {kept} kept, {acknowledged:?} acknowledged");
            let (ours, theirs) = (kept.div_ceil(2), kept / 2);
            let expected = |n: u64| (n > 0).then(|| n.to_string());
            for (key, n) in [("last", ours), ("mirror", ours), ("theirs", theirs), ("theirs-mirror", theirs)]
            {
                assert_eq!(text(&store, key).await, expected(n), "{at}: {key}");
            }
            // Log, view and vector are of one moment.
            let status = store.status().await.unwrap();
            let head = |id| status.authors.iter().find(|author| author.id == id).unwrap().head.position;
            assert_eq!((head(author(1).author()), head(author(2).author())), (ours, theirs), "{at}");
            let history = store.watch("", Position::ZERO).await.unwrap().take(usize::try_from(kept).unwrap());
            let whole =
                history.all(|item| std::future::ready(item.is_ok_and(|batch| batch.writes.len() == 3)));
            assert!(whole.await, "{at}: the log must have every revision, as a whole");
            // It goes on where it was: what it signs now follows on what it has signed and acknowledged.
            store.commit(Txn::of(vec![put("last", "again")])).await.unwrap();
            let status = store.status().await.unwrap();
            assert_eq!(
                status.authors.iter().map(|author| author.head.position).sum::<u64>(),
                kept + 1,
                "{at}"
            );
            store.close().await.unwrap();
        }
    }
    for message in sent {
        peer.receives(message);
    }
    assert!(peer.replica.evidence().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_stops_the_store_and_sends_nothing() {
    let disk = SimDisk::default();
    let (store, mut outgoing) = open(&disk).unwrap();
    store.commit(Txn::of(vec![put("k", "1")])).await.unwrap();
    let watch = store.watch("k", Position::ZERO).await.unwrap();
    disk.change(|state| state.broken_sync = true);
    let Err(CommitError::Store(failure)) = store.commit(Txn::of(vec![put("k", "2")])).await else {
        panic!("it cannot be durable")
    };
    assert!(failure.outcome_unknown() && !failure.is_retryable(), "{failure:?}");
    let Err(CommitError::Store(after)) = store.commit(Txn::of(vec![put("k", "3")])).await else {
        panic!("a failed store must stop")
    };
    assert!(!after.outcome_unknown(), "nothing was tried: {after:?}");
    assert!(store.get(&Key::new("k").unwrap()).await.is_err(), "it does not answer from memory");
    let items: Vec<_> = watch.collect().await;
    assert!(items[0].is_ok() && items.last().unwrap().is_err(), "{items:?}");
    store.close().await.unwrap();
    let mut supplies = 0;
    while let Some((_, message, _)) = outgoing.recv().await {
        supplies += usize::from(matches!(Message::decode(message).unwrap(), Message::Supply { .. }));
    }
    assert_eq!(
        supplies, 1,
        "what is not durable is not sent: another incarnation might sign something else there"
    );
    disk.change(|state| state.broken_sync = false);
    let synced = disk.change(|state| state.after_crash(state.steps.len(), 7));
    let (store, _) = open(&SimDisk::with(synced)).unwrap();
    assert_eq!(text(&store, "k").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn history_outlives_the_segments_that_a_decision_takes_back() {
    let disk = SimDisk::default();
    let (store, _outgoing) = open(&disk).unwrap();
    let mut peer = Peer::new();
    let mut live = store.watch("", Position::ZERO).await.unwrap();
    let mut seen = Vec::new();
    let mut head = None;
    for value in ["stays", "goes"] {
        let permits = store.messages.acquire(0).await.unwrap();
        let message = peer.write(Txn::of(vec![put("a", value), put("k", value)])).encode().into();
        store.writer.jobs().send(super::Job::Receive { from: author(2).author(), message, permits }).unwrap();
        seen.push(live.next().await.unwrap().unwrap());
        let status = store.status().await.unwrap();
        let theirs = status.authors.into_iter().find(|known| known.id == author(2).author());
        head = head.or(theirs.map(|author| author.head));
    }
    let back = Decision::Settle { author: author(2).author(), head: head.unwrap() };
    store.apply(1, back).await.unwrap().unwrap();
    seen.push(live.next().await.unwrap().unwrap());
    assert_eq!(seen[2].writes, [put("a", "stays"), put("k", "stays")]);
    store.close().await.unwrap();
    let kept = disk.change(|state| state.after_crash(state.steps.len(), 1));
    let (store, _outgoing) = open(&SimDisk::with(kept)).unwrap();
    let again: Vec<_> = store.watch("", Position::ZERO).await.unwrap().take(3).collect().await;
    assert_eq!(again.into_iter().map(Result::unwrap).collect::<Vec<_>>(), seen);
}
