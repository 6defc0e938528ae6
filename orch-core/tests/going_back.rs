//! Members that decide over one store, which comes back older while they do.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures_util::future::join_all;
use orch_core::{
    consensus::{Consensus, StoreConsensus},
    store::{CommitError, Entry, Guard, Key, Position, ReplicatedStore, StateStore, StoreError, Txn, Write},
    testkit::{Layered, RewindableStore, StoreLayer},
};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

struct Member {
    consensus: Arc<StoreConsensus>,
    records: ReplicatedStore,
}

async fn member(store: &RewindableStore, name: &str) -> Member {
    let consensus = Arc::new(StoreConsensus::named(Arc::new(store.clone()), name));
    let records = ReplicatedStore::start(Arc::clone(&consensus) as Arc<dyn Consensus>).await.unwrap();
    Member { consensus, records }
}

impl Member {
    async fn put(&self, name: &str, value: &str) {
        let write = Write::put(key(name), value.to_owned());
        self.records.commit(Txn::of(vec![write])).await.unwrap();
    }

    async fn all(&self) -> Vec<(String, String)> {
        let page = self.records.scan("", None, 10_000).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        page.entries.iter().map(|entry| (entry.key.to_string(), text(&entry.value))).collect()
    }
}

#[tokio::test]
async fn a_store_that_came_back_older_is_read_again_and_said_to_have_lost_decisions() {
    let store = RewindableStore::default();
    let (one, two) = (member(&store, "one").await, member(&store, "two").await);
    one.put("kept", "1").await;
    let backup = store.backup();
    for n in 0..3 {
        one.put("lost", &n.to_string()).await;
    }
    let lost = one.records.get(&key("lost")).await.unwrap().unwrap().version;
    assert_eq!(two.all().await.len(), 2, "both have seen it");
    store.restore(&backup);
    // As many decisions as were lost: what the first knows has the numbers of another history.
    for n in 0..3 {
        two.put("lost", &format!("again {n}")).await;
    }
    let guarded = Txn::of(vec![Write::put(key("lost"), "wrong")]).guarded(Guard::Version(key("lost"), lost));
    one.records.commit(guarded).await.unwrap_err();
    one.put("after", "1").await;
    let expected: Vec<_> = [("after", "1"), ("kept", "1"), ("lost", "again 2")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    assert_eq!(one.all().await, expected);
    assert_eq!(two.all().await, expected);
    for member in [&one, &two] {
        let lost = member.consensus.status().lost_history.expect("it is said");
        assert!(lost.times >= 1 && lost.found <= lost.expected, "{lost:?}");
        assert_eq!(member.consensus.status().last_error, None, "it goes on");
    }
    let late = member(&store, "late").await;
    assert_eq!(late.all().await, expected);
    assert_eq!(late.consensus.status().lost_history, None, "who has seen nothing has lost nothing");
}

#[tokio::test]
async fn a_loss_is_said_also_when_others_have_decided_more_since() {
    let store = RewindableStore::default();
    let away = Arc::new(Layered(Away { below: store.clone(), gone: AtomicBool::new(false) }));
    let consensus = Arc::new(StoreConsensus::named(away.clone(), "away"));
    let records = ReplicatedStore::start(Arc::clone(&consensus) as Arc<dyn Consensus>).await.unwrap();
    let away_member = Member { consensus, records };
    let backup = store.backup();
    away_member.put("lost", "1").await;
    away.0.gone.store(true, Ordering::SeqCst);
    store.restore(&backup);
    let other = member(&store, "other").await;
    for n in 0..5 {
        other.put("new", &n.to_string()).await;
    }
    // It fails, and forgets what it knew but for the head.
    away_member.records.commit(Txn::of(vec![Write::put(key("late"), "1")])).await.unwrap_err();
    away.0.gone.store(false, Ordering::SeqCst);
    away_member.put("back", "1").await;
    assert_eq!(away_member.all().await, other.all().await);
    let lost = away_member.consensus.status().lost_history.expect("it is said");
    assert_eq!(lost.times, 1, "and once");
}

/// Connection of one member to the store, which may fail.
#[derive(Debug)]
struct Away {
    below: RewindableStore,
    gone: AtomicBool,
}

impl Away {
    fn check(&self) -> Result<(), StoreError> {
        match self.gone.load(Ordering::SeqCst) {
            true => Err(StoreError::Unsupported { store: "away", what: "a call" }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl StoreLayer for Away {
    fn below(&self) -> &dyn StateStore {
        &self.below
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.check()?;
        self.below.get(key).await
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        self.check()?;
        self.below.commit(txn).await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        self.check()?;
        self.below.head().await
    }
}

/// Members put records of their own while the store goes back again and again. What was acknowledged for a
/// call that began after the last time is there, once, for all.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_decided_after_a_loss_is_undone() {
    const ROUNDS: u64 = 20;
    let store = RewindableStore::default();
    let names = ["one", "two", "three"];
    let members: Vec<_> =
        join_all(names.map(|name| member(&store, name))).await.into_iter().map(Arc::new).collect();
    let round = Arc::new(AtomicU64::new(0));
    let writers = members.iter().zip(names).map(|(member, name)| {
        let (member, round) = (Arc::clone(member), Arc::clone(&round));
        tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0.. {
                let began = round.load(Ordering::SeqCst);
                let at = format!("{name}/{n}");
                let write = Write::put(key(&at), began.to_string());
                // A loss in between may make an outcome unknown.
                if member.records.commit(Txn::of(vec![write])).await.is_ok() && began == ROUNDS {
                    acknowledged.push((at, began.to_string()));
                }
                if acknowledged.len() == 50 {
                    break;
                }
            }
            acknowledged
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut backup = store.backup();
    for n in 1..=ROUNDS {
        let committed = store.head().await.unwrap().revision.0 + 10;
        while store.head().await.unwrap().revision.0 < committed {
            tokio::task::yield_now().await;
        }
        store.restore(&backup);
        if n % 3 == 0 {
            backup = store.backup();
        }
        round.store(n, Ordering::SeqCst);
    }
    let acknowledged: Vec<_> =
        join_all(writers).await.into_iter().flat_map(|writer| writer.unwrap()).collect();
    assert_eq!(acknowledged.len(), 150);
    let all = members[0].all().await;
    for member in &members[1..] {
        assert_eq!(member.all().await, all, "members disagree");
    }
    for record in acknowledged {
        assert!(all.contains(&record), "{record:?} was acknowledged after the last loss");
    }
    assert_eq!(member(&store, "late").await.all().await, all, "a member that starts now disagrees");
}
