//! Records in an etcd cluster (version 3.4 or later), for several processes that decide over the same
//! records.
//!
//! A record `tasks/1` is the key `orch/records/tasks/1` (with the namespace `orch`), so that `etcdctl get
//! --prefix orch/records/` shows them all. Other keys are the store's own: `orch/head`, which each commit
//! writes with its id and whose revision is the store's; `orch/oldest`, which says where watches may start;
//! `orch/incarnation`, the identity of the store's history; and below `orch/settled/`, for an hour, the ids
//! of commits that were asked for and did not happen.
//!
//! A cluster that is restored from a snapshot gives out revisions again. It is noticed by the next process
//! that has seen more of it: on each new connection a head that was seen is looked for in the cluster's
//! history. If it is not there, the store gets a new incarnation, which all commits compare.
//!
//! Revisions are those of the cluster, which counts all that is written to it: they go up, with gaps. A
//! commit is one transaction of etcd, so that it is as durable as etcd: synced by most of its members. A
//! watch is one of etcd; when its member is lost, it goes on at another one after what it has delivered.
//!
//! A commit whose connection is lost before the answer is reported with [`StoreError::outcome_unknown`].
//! Reads are tried at other members.
//!
//! Connections are encrypted, and log in by a certificate, where [`EtcdStoreConfig::tls`] says so; or with a
//! password, where [`EtcdStoreConfig::login`] does.

mod call;
mod config;
mod connection;
mod error;
mod history;
#[cfg(feature = "lease")]
mod lease;
mod login;
mod members;
mod watch;
mod wire;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use orch_core::store::{
    CommitError, CommitId, Durability, Entry, Guard, Incarnation, Key, Page, Position, Revision, StateStore,
    StoreCapabilities, StoreError, Txn, Watch, WatchBatch,
};
use tokio::sync::watch::Sender;
use tonic::Code;

pub use self::config::{EtcdLogin, EtcdStoreConfig, EtcdTls};
use self::{
    error::Cause,
    members::Members,
    watch::{Range, key_of},
    wire::{
        Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RangeResponse, Request, Response,
    },
};
use crate::prefix;

/// Time that a change takes to the watches of another process while nothing fails.
const WATCH_LATENCY: Duration = Duration::from_millis(10);

/// Seconds for which a commit that was settled is refused when it arrives: no request is on its way for so
/// long.
const SETTLED_SECONDS: i64 = 3600;

const SETTLING: &str = "settling a commit";

/// A [`StateStore`] in an etcd cluster, shared by any number of processes.
pub struct EtcdStore {
    members: Arc<Members>,
    /// False once the store is closed; watches end with it.
    open: Sender<bool>,
    records: String,
    oldest: Bytes,
    config: EtcdStoreConfig,
}

impl EtcdStore {
    /// Connects to the cluster. Waits for it for [`EtcdStoreConfig::retry_deadline`].
    ///
    /// # Errors
    /// [`StoreError::Backend`] when no member can be reached, or the configuration cannot be used.
    pub async fn open(config: EtcdStoreConfig) -> Result<Self, StoreError> {
        let namespace = &config.namespace;
        let store = Self {
            members: Arc::new(Members::new(&config)?),
            open: Sender::new(true),
            records: format!("{namespace}/records/"),
            oldest: format!("{namespace}/oldest").into(),
            config,
        };
        store.head().await?;
        Ok(store)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if *self.open.borrow() { Ok(()) } else { Err(StoreError::Closed) }
    }

    /// The key in etcd.
    fn at(&self, key: &Key) -> Bytes {
        format!("{}{key}", self.records).into()
    }

    /// The key of a commit that was settled as not applied.
    fn settled(&self, id: CommitId) -> Bytes {
        format!("{}/settled/{id}", self.config.namespace).into()
    }

    /// Reads several ranges of one moment, which is the revision of the cluster that comes first.
    async fn read(
        &self,
        operation: &'static str,
        ranges: Vec<RangeRequest>,
    ) -> Result<(i64, Vec<RangeResponse>), StoreError> {
        self.check_open()?;
        let count = ranges.len();
        let success = ranges.into_iter().map(|range| Request::Range(range).into()).collect();
        let txn = wire::TxnRequest { success, ..wire::TxnRequest::default() };
        let answer: wire::TxnResponse = self.members.ask(operation, wire::TXN, txn).await?;
        let now = answer.header.as_ref().map_or(0, |header| header.revision);
        let found: Vec<_> = ranges_of(answer).collect();
        match found.len() == count {
            true => Ok((now, found)),
            false => Err(error::backend(operation, false, Cause::Answer)),
        }
    }

    /// Reads the store's own records.
    async fn bounds(&self) -> Result<LogBounds, StoreError> {
        let history = &self.members.history;
        let own = [&history.head, &self.oldest, &history.incarnation].map(|key| one(key.clone()));
        let (now, found) = self.read("reading the revision", own.into()).await?;
        let incarnation = found[2].kvs.first().and_then(|kv| history::read(&kv.value));
        let incarnation = incarnation.ok_or_else(|| self.without_incarnation())?;
        history.reach(incarnation);
        let head = found[0].kvs.first();
        if let Some(kv) = head {
            history.observe(incarnation, kv.mod_revision, kv.value.clone());
        }
        let oldest = found[1].kvs.first();
        let number =
            oldest.map(|kv| String::from_utf8_lossy(&kv.value).parse()).transpose().map_err(|_| {
                let key = String::from_utf8_lossy(&self.oldest);
                StoreError::Corrupt(format!("{key} is not a number; delete it"))
            })?;
        Ok(LogBounds {
            incarnation,
            head: head.map_or(0, |kv| kv.mod_revision),
            first: head.map_or(now + 1, |kv| kv.create_revision),
            oldest: number.unwrap_or(0),
            oldest_version: oldest.map_or(0, |kv| kv.mod_revision),
        })
    }
}

/// Bounds of the store's log among the revisions of the cluster.
struct LogBounds {
    incarnation: Incarnation,
    /// The newest one.
    head: i64,
    /// The first one there is or can be.
    first: i64,
    /// The earliest start of a watch.
    oldest: i64,
    /// Revision that wrote `oldest`.
    oldest_version: i64,
}

#[async_trait]
impl StateStore for EtcdStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::new(error::NAME)
            .compare_and_swap(true)
            .shared(true)
            .durability(match self.config.members.len() {
                1 => Durability::Sync,
                _ => Durability::Replicated,
            })
            .outcomes(true)
            .watch_latency(WATCH_LATENCY)
            .max_value_bytes(self.config.max_value_bytes)
            .max_txn_writes(self.config.max_txn_writes)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.check_open()?;
        let incarnation = self.members.history.current();
        let range = one(self.at(key));
        let found: RangeResponse = self.members.ask("reading", wire::RANGE, range).await?;
        found.kvs.into_iter().next().map(|kv| self.entry(kv, incarnation)).transpose()
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let start = match after.filter(|after| after.as_str() >= prefix) {
            // The next key there can be.
            Some(after) => format!("{}{after}\0", self.records),
            None => format!("{}{prefix}", self.records),
        };
        let range_end = self.end(prefix);
        if start.as_bytes() >= &range_end[..] {
            return Ok(Page { position: self.head().await?, entries: Vec::new(), more: false });
        }
        // Zero would be no limit: what is there tells whether there is more.
        let wanted = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        let range =
            RangeRequest { key: start.into(), range_end, limit: wanted, revision: 0, keys_only: limit == 0 };
        let history = &self.members.history;
        // Of before the call: what is read may be of an older history than it, never of a later one.
        let incarnation = history.current();
        let (_, mut found) = self.read("scanning", vec![range, one(history.head.clone())]).await?;
        let head = found.pop().and_then(|head| head.kvs.into_iter().next());
        if let Some(kv) = &head {
            history.observe(incarnation, kv.mod_revision, kv.value.clone());
        }
        let page = found.pop().unwrap_or_default();
        let more = page.more || page.kvs.len() > limit;
        let entries = page.kvs.into_iter().take(limit).map(|kv| self.entry(kv, incarnation));
        let position = position(head.map_or(0, |kv| kv.mod_revision), incarnation);
        Ok(Page { position, entries: entries.collect::<Result<_, _>>()?, more })
    }

    async fn commit(&self, txn: Txn) -> Result<Position, CommitError> {
        txn.check(&self.capabilities())?;
        self.check_open()?;
        let size = txn.size_bytes();
        if size > self.config.max_txn_bytes {
            let what = "the writes of a transaction, in bytes,".into();
            return Err(StoreError::TooLarge {
                store: error::NAME,
                what,
                size,
                max: self.config.max_txn_bytes,
            }
            .into());
        }
        let named = txn.id;
        let id = named.unwrap_or_else(CommitId::random);
        let (guards, writes) = (txn.guards.clone(), txn.into_net_writes());
        let mut writes: Vec<wire::RequestOp> = writes
            .into_iter()
            .map(|(key, value)| match value {
                Some(value) => Request::Put(PutRequest::new(self.at(&key), value)),
                None => Request::Delete(DeleteRangeRequest { key: self.at(&key) }),
            })
            .map(Into::into)
            .collect();
        let history = &self.members.history;
        let head = PutRequest::new(history.head.clone(), id.to_string());
        writes.push(Request::Put(head).into());
        loop {
            let incarnation = history.current();
            let foreign =
                |guard: &&Guard| matches!(guard, Guard::Version(_, at) if at.incarnation != incarnation);
            if let Some(guard) = guards.iter().find(foreign) {
                return Err(CommitError::Conflict { key: guard.key().clone() });
            }
            let request = self.request(&guards, incarnation, named, writes.clone());
            let answer = self.members.change(request).await?;
            if answer.succeeded {
                let header =
                    answer.header.ok_or_else(|| error::backend("committing", false, Cause::Answer))?;
                history.observe(incarnation, header.revision, id.to_string().into());
                return Ok(position(header.revision, incarnation));
            }
            let mut ranges = ranges_of(answer);
            let mut next = || ranges.next().and_then(|range| range.kvs.into_iter().next());
            let failed = guards
                .iter()
                .find(|guard| !guard.holds(next().map(|kv| position(kv.mod_revision, incarnation))));
            if let Some(guard) = failed {
                return Err(CommitError::Conflict { key: guard.key().clone() });
            }
            let now = next().and_then(|kv| history::read(&kv.value));
            history.reach(now.ok_or_else(|| self.without_incarnation())?);
            if next().is_some() {
                return Err(StoreError::Settled { id }.into());
            }
            if history.current() == incarnation {
                return Err(error::backend("committing", false, Cause::Answer).into());
            }
        }
    }

    async fn watch(&self, prefix: &str, from: Position) -> Result<Watch, StoreError> {
        let bounds = self.bounds().await?;
        let head = position(bounds.head, bounds.incarnation);
        let foreign = from.revision > Revision::ZERO && from.incarnation != bounds.incarnation;
        if foreign || from.revision > head.revision {
            return Err(StoreError::Diverged { expected: from, head });
        }
        if number(from.revision) < bounds.oldest {
            return Err(StoreError::Compacted { oldest: position(bounds.oldest, bounds.incarnation) });
        }
        // What was in the cluster before the store's first commit is not the store's, and may be compacted
        // already.
        let start = number(from.revision.next()).max(bounds.first);
        let key = format!("{}{prefix}", self.records).into();
        let incarnation = bounds.incarnation;
        let range = Range { hidden: self.records.len(), key, end: self.end(prefix), start, incarnation };
        Ok(watch::watch(Arc::clone(&self.members), range, self.open.subscribe()))
    }

    async fn head(&self) -> Result<Position, StoreError> {
        let bounds = self.bounds().await?;
        Ok(position(bounds.head, bounds.incarnation))
    }

    async fn outcome(&self, id: CommitId, since: Revision) -> Result<Option<Position>, StoreError> {
        self.check_open()?;
        let grant = wire::LeaseGrantRequest { ttl: SETTLED_SECONDS };
        let granted: wire::LeaseGrantResponse = self.members.ask(SETTLING, wire::LEASE_GRANT, grant).await?;
        let settled = PutRequest { lease: granted.id, ..PutRequest::new(self.settled(id), "") };
        let settle =
            wire::TxnRequest { success: vec![Request::Put(settled).into()], ..wire::TxnRequest::default() };
        let _: wire::TxnResponse = self.members.ask(SETTLING, wire::TXN, settle).await?;
        // What is still on its way is refused from here on, so that it does not come after the head of now.
        // All that is kept is looked at, because `since` may be of a lost history.
        let bounds = self.bounds().await?;
        match self.find(id, bounds.oldest, &bounds).await? {
            None if number(since) < bounds.oldest => {
                Err(StoreError::Compacted { oldest: position(bounds.oldest, bounds.incarnation) })
            }
            found => Ok(found.map(|found| position(found, bounds.incarnation))),
        }
    }

    async fn compact(&self, before: Revision) -> Result<(), StoreError> {
        loop {
            let bounds = self.bounds().await?;
            let wanted = number(before).min(bounds.head);
            if wanted <= bounds.oldest {
                return Ok(());
            }
            let mark = wire::TxnRequest {
                compare: vec![Compare::unchanged_since(self.oldest.clone(), bounds.oldest_version)],
                success: vec![Request::Put(PutRequest::new(self.oldest.clone(), wanted.to_string())).into()],
                failure: Vec::new(),
            };
            // Asking twice does no harm: the second finds that it is done.
            let marked: wire::TxnResponse = self.members.ask("compacting", wire::TXN, mark).await?;
            if !marked.succeeded {
                continue;
            }
            if self.config.compacts_cluster {
                self.compact_cluster(wanted).await?;
            }
            return Ok(());
        }
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.open.send_replace(false);
        Ok(())
    }
}

impl EtcdStore {
    /// The transaction of a commit: guards, then that the history is the known one, and that it was not
    /// settled before. If it fails, it answers with what each of these looked at.
    fn request(
        &self,
        guards: &[Guard],
        incarnation: Incarnation,
        named: Option<CommitId>,
        success: Vec<wire::RequestOp>,
    ) -> wire::TxnRequest {
        let history = &self.members.history;
        let mut compare: Vec<_> = guards
            .iter()
            .map(|guard| {
                let version = match guard {
                    Guard::Absent(_) => 0,
                    // No record has a revision below zero, and zero means that there is none.
                    Guard::Version(_, version) => {
                        Some(number(version.revision)).filter(|version| *version > 0).unwrap_or(-1)
                    }
                };
                Compare::unchanged_since(self.at(guard.key()), version)
            })
            .collect();
        let keys_only = |key| RangeRequest { keys_only: true, ..one(key) };
        let mut failure: Vec<_> = guards.iter().map(|guard| keys_only(self.at(guard.key()))).collect();
        compare.push(history.unchanged(incarnation));
        failure.push(one(history.incarnation.clone()));
        if let Some(id) = named {
            compare.push(Compare::unchanged_since(self.settled(id), 0));
            failure.push(keys_only(self.settled(id)));
        }
        let failure = failure.into_iter().map(|range| Request::Range(range).into()).collect();
        wire::TxnRequest { compare, success, failure }
    }

    /// The revision of the commit `id` among those after `after`, up to the head.
    async fn find(&self, id: CommitId, after: i64, bounds: &LogBounds) -> Result<Option<i64>, StoreError> {
        if bounds.head <= after {
            return Ok(None);
        }
        let (head, name) = (self.members.history.head.clone(), id.to_string());
        let (start, hidden) = ((after + 1).max(bounds.first), self.config.namespace.len() + 1);
        let range = Range { hidden, key: head, end: Bytes::new(), start, incarnation: bounds.incarnation };
        let mut heads = watch::watch(Arc::clone(&self.members), range, self.open.subscribe());
        while let Some(batch) = heads.next().await {
            let WatchBatch { position, writes } = batch?;
            let revision = number(position.revision);
            if writes.iter().any(|write| write.value.as_deref() == Some(name.as_bytes())) {
                return Ok(Some(revision));
            }
            if revision >= bounds.head {
                return Ok(None);
            }
        }
        Err(StoreError::Closed)
    }

    fn entry(&self, kv: KeyValue, incarnation: Incarnation) -> Result<Entry, StoreError> {
        let key = key_of(&kv.key, self.records.len())?;
        Ok(Entry { key, value: kv.value, version: position(kv.mod_revision, incarnation) })
    }

    fn without_incarnation(&self) -> StoreError {
        let key = String::from_utf8_lossy(&self.members.history.incarnation).into_owned();
        StoreError::Corrupt(format!(
            "{key} was deleted or altered while the store was in use; open the store again"
        ))
    }

    /// The end of the keys in etcd that begin with `prefix`.
    fn end(&self, prefix: &str) -> Bytes {
        let end = prefix::end_of(&format!("{}{prefix}", self.records));
        end.expect("the name of the records ends with a slash, which something comes after").into()
    }

    async fn compact_cluster(&self, revision: i64) -> Result<(), StoreError> {
        let request = wire::CompactionRequest { revision };
        let compacted: Result<(), _> = self.members.ask("compacting", wire::COMPACT, request).await;
        match compacted {
            // Somebody was there before.
            Err(error) if error::is(&error, Code::OutOfRange, "compacted") => Ok(()),
            done => done,
        }
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("config", &self.config).finish_non_exhaustive()
    }
}

fn one(key: Bytes) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}

fn ranges_of(answer: wire::TxnResponse) -> impl Iterator<Item = RangeResponse> {
    answer.responses.into_iter().filter_map(|op| op.response.map(|Response::Range(range)| range))
}

/// The position of a revision of etcd; zero is before the first commit, in every history.
fn position(number: i64, incarnation: Incarnation) -> Position {
    match revision(number) {
        Revision::ZERO => Position::ZERO,
        revision => Position::new(revision, incarnation),
    }
}

/// As etcd counts.
fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// etcd has no negative ones.
fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}
