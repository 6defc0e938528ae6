//! Records in an etcd cluster (version 3.4 or later), for several processes that decide over the same
//! records.
//!
//! A record `tasks/1` is the key `orch/records/tasks/1` (with the namespace `orch`), so that `etcdctl get
//! --prefix orch/records/` shows them all. Two more keys are the store's own: `orch/head`, which each commit
//! writes and whose revision is the store's, and `orch/oldest`, which says where watches may start.
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
mod error;
#[cfg(feature = "lease")]
mod lease;
mod login;
mod members;
mod watch;
mod wire;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use orch_core::store::{
    CommitError, Durability, Entry, Guard, Key, Page, Revision, StateStore, StoreCapabilities, StoreError,
    Txn, Watch,
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

/// A [`StateStore`] in an etcd cluster, shared by any number of processes.
pub struct EtcdStore {
    members: Arc<Members>,
    /// False once the store is closed; watches end with it.
    open: Sender<bool>,
    records: String,
    head: Bytes,
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
            head: format!("{namespace}/head").into(),
            oldest: format!("{namespace}/oldest").into(),
            config,
        };
        store.revision().await?;
        Ok(store)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if *self.open.borrow() { Ok(()) } else { Err(StoreError::Closed) }
    }

    /// The key in etcd.
    fn at(&self, key: &Key) -> Bytes {
        format!("{}{key}", self.records).into()
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

    /// Reads the store's own two records.
    async fn bounds(&self) -> Result<LogBounds, StoreError> {
        let own = vec![one(self.head.clone()), one(self.oldest.clone())];
        let (now, found) = self.read("reading the revision", own).await?;
        let head = found[0].kvs.first();
        let oldest = found[1].kvs.first();
        let number =
            oldest.map(|kv| String::from_utf8_lossy(&kv.value).parse()).transpose().map_err(|_| {
                let key = String::from_utf8_lossy(&self.oldest);
                StoreError::Corrupt(format!("{key} is not a number; delete it"))
            })?;
        Ok(LogBounds {
            head: head.map_or(0, |kv| kv.mod_revision),
            first: head.map_or(now + 1, |kv| kv.create_revision),
            oldest: number.unwrap_or(0),
            oldest_version: oldest.map_or(0, |kv| kv.mod_revision),
        })
    }
}

/// Bounds of the store's log among the revisions of the cluster.
struct LogBounds {
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
            .durability(Durability::Sync)
            .max_value_bytes(self.config.max_value_bytes)
            .max_txn_writes(self.config.max_txn_writes)
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.check_open()?;
        let range = one(self.at(key));
        let found: RangeResponse = self.members.ask("reading", wire::RANGE, range).await?;
        found.kvs.into_iter().next().map(|kv| entry(kv, self.records.len())).transpose()
    }

    async fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        let start = match after.filter(|after| after.as_str() >= prefix) {
            // The next key there can be.
            Some(after) => format!("{}{after}\0", self.records),
            None => format!("{}{prefix}", self.records),
        };
        let range_end = self.end(prefix);
        if start.as_bytes() >= &range_end[..] {
            return Ok(Page { revision: self.revision().await?, entries: Vec::new(), more: false });
        }
        // Zero would be no limit: what is there tells whether there is more.
        let wanted = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
        let range = RangeRequest { key: start.into(), range_end, limit: wanted, keys_only: limit == 0 };
        let (_, mut found) = self.read("scanning", vec![range, one(self.head.clone())]).await?;
        let head = found.pop().and_then(|head| head.kvs.into_iter().next());
        let page = found.pop().unwrap_or_default();
        let more = page.more || page.kvs.len() > limit;
        let entries = page.kvs.into_iter().take(limit).map(|kv| entry(kv, self.records.len()));
        let revision = revision(head.map_or(0, |kv| kv.mod_revision));
        Ok(Page { revision, entries: entries.collect::<Result<_, _>>()?, more })
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, CommitError> {
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
        let guards = txn.guards.clone();
        let compare = guards.iter().map(|guard| {
            let version = match guard {
                Guard::Absent(_) => 0,
                // No record has a revision below zero, and zero means that there is none.
                Guard::Version(_, version) => {
                    Some(number(*version)).filter(|version| *version > 0).unwrap_or(-1)
                }
            };
            Compare::unchanged_since(self.at(guard.key()), version)
        });
        let failure = guards
            .iter()
            .map(|guard| Request::Range(RangeRequest { keys_only: true, ..one(self.at(guard.key())) }));
        let request = wire::TxnRequest {
            compare: compare.collect(),
            failure: failure.map(Into::into).collect(),
            success: txn
                .into_net_writes()
                .into_iter()
                .map(|(key, value)| match value {
                    Some(value) => Request::Put(PutRequest::new(self.at(&key), value)),
                    None => Request::Delete(DeleteRangeRequest { key: self.at(&key) }),
                })
                .chain([Request::Put(PutRequest::new(self.head.clone(), Bytes::new()))])
                .map(Into::into)
                .collect(),
        };
        let answer = self.members.change(request).await?;
        if answer.succeeded {
            let header = answer.header.ok_or_else(|| error::backend("committing", false, Cause::Answer))?;
            return Ok(revision(header.revision));
        }
        let stored = ranges_of(answer).map(|range| range.kvs.first().map(|kv| revision(kv.mod_revision)));
        let failed = guards.iter().zip(stored).find(|(guard, stored)| !guard.holds(*stored));
        match failed {
            Some((guard, _)) => Err(CommitError::Conflict { key: guard.key().clone() }),
            None => Err(error::backend("committing", false, Cause::Answer).into()),
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let bounds = self.bounds().await?;
        if number(from) < bounds.oldest {
            return Err(StoreError::Compacted { oldest: revision(bounds.oldest) });
        }
        // What was in the cluster before the store's first commit is not the store's, and may be compacted
        // already.
        let start = number(from.next()).max(bounds.first);
        let key = format!("{}{prefix}", self.records).into();
        let range = Range { hidden: self.records.len(), key, end: self.end(prefix), start };
        Ok(watch::watch(Arc::clone(&self.members), range, self.open.subscribe()))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.check_open()?;
        let found: RangeResponse =
            self.members.ask("reading the revision", wire::RANGE, one(self.head.clone())).await?;
        Ok(revision(found.kvs.first().map_or(0, |kv| kv.mod_revision)))
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

fn entry(kv: KeyValue, hidden: usize) -> Result<Entry, StoreError> {
    Ok(Entry { key: key_of(&kv.key, hidden)?, value: kv.value, version: revision(kv.mod_revision) })
}

/// As etcd counts.
fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// etcd has no negative ones.
fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}
