//! Leases with etcd's own keep-alive.
//!
//! Taking a lease writes two keys in one transaction: the holder's record, as in any other store, and
//! `<namespace>/leases/<name>`, which is bound to a lease of etcd. etcd deletes the second when the holder
//! goes silent, and the others watch it. It is no record and has no part in revisions, versions and watches
//! of the store: what is guarded is the record, which only the next holder writes. So renewals are no
//! commits, and nobody who watches sees them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use orch_core::store::{CommitError, CommitId, Guard, Position, StateStore as _, StoreError, Txn, Write};
use tokio::time::Instant;
use tonic::Code;

use super::{
    EtcdStore,
    error::{self, Cause},
    one, position,
    watch::{self, Range},
    wire::{self, Compare, PutRequest, Request},
};
use crate::lease::{Hold, Lease, LeaseConfig, Taken};

impl EtcdStore {
    /// Waits until the lease is free, and takes it: as [`Lease::take`], but renewed without a commit, by a
    /// lease of etcd. The duration counts in whole seconds, and at least as many as the cluster's election
    /// takes (2, by default); after the loss of the cluster's leader the others wait for it once more. All
    /// who want this lease must take it by this method. May be dropped.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails for good, or somebody holds the lease by [`Lease::take`].
    pub async fn lease(self: &Arc<Self>, config: LeaseConfig) -> Result<Lease, StoreError> {
        Lease::take_by(&config, || try_take(Arc::clone(self), config.clone())).await
    }
}

/// Takes the lease if it is free. If not, waits until it is. `None` when it was not.
async fn try_take(store: Arc<EtcdStore>, config: LeaseConfig) -> Result<Option<Taken>, StoreError> {
    let name = config.prefix().trim_end_matches('/');
    let alive: Bytes = format!("{}/{name}", store.config.namespace).into();
    let at = |key| one(store.at(key));
    let history = &store.members.history;
    let ranges = vec![one(alive.clone()), at(&config.holder), at(&config.renewed)];
    let (now, found) = store.read(OPERATION, ranges).await?;
    if !found[2].kvs.is_empty() {
        return Err(error::backend(OPERATION, false, Cause::OtherLease));
    }
    if !found[0].kvs.is_empty() {
        end_of(&store, alive, now + 1).await?;
        return Ok(None);
    }
    let since = Instant::now();
    let grant = wire::LeaseGrantRequest { ttl: seconds(config.duration) };
    let granted: wire::LeaseGrantResponse = store.members.ask(OPERATION, wire::LEASE_GRANT, grant).await?;
    let mark = config.mark();
    let previous = found[1].kvs.first().map_or(0, |kv| kv.mod_revision);
    let holder = store.at(&config.holder);
    let (incarnation, id) = (history.current(), CommitId::random());
    let take = wire::TxnRequest {
        compare: vec![
            Compare::unchanged_since(alive.clone(), 0),
            Compare::unchanged_since(holder.clone(), previous),
            history.unchanged(incarnation),
        ],
        success: [
            PutRequest { lease: granted.id, ..PutRequest::new(alive, mark.clone()) },
            PutRequest::new(holder, mark.clone()),
            PutRequest::new(history.head.clone(), id.to_string()),
        ]
        .map(|put| Request::Put(put).into())
        .into(),
        failure: Vec::new(),
    };
    let version = match store.members.change(take).await {
        Ok(answer) => {
            answer.header.filter(|_| answer.succeeded).map(|header| position(header.revision, incarnation))
        }
        Err(error) if error.outcome_unknown() => {
            let found = store.get(&config.holder).await?.filter(|entry| entry.value == mark.as_bytes());
            found.map(|entry| entry.version)
        }
        Err(error) => return Err(error),
    };
    match version {
        Some(version) => {
            let hold = Granted { store, config, version, id: granted.id };
            Ok(Some(Taken { hold: Arc::new(hold), version, since }))
        }
        None => {
            revoke(&store, granted.id).await?;
            Ok(None)
        }
    }
}

const OPERATION: &str = "taking a lease";

/// Waits until the key, which was there before the revision `start`, has ended.
async fn end_of(store: &EtcdStore, alive: Bytes, start: i64) -> Result<(), StoreError> {
    let incarnation = store.members.history.current();
    let hidden = store.config.namespace.len() + 1;
    let range = Range { hidden, key: alive, end: Bytes::new(), start, incarnation };
    let mut changes = watch::watch(Arc::clone(&store.members), range, store.open.subscribe());
    while let Some(batch) = changes.next().await {
        if batch?.writes.iter().any(|write| write.value.is_none()) {
            return Ok(());
        }
    }
    Err(StoreError::Closed)
}

/// Ends a lease of etcd, and with it the key that is bound to it.
async fn revoke(store: &EtcdStore, id: i64) -> Result<(), StoreError> {
    let request = wire::LeaseId { id };
    let revoked: Result<wire::LeaseRevokeResponse, _> =
        store.members.ask("releasing a lease", wire::LEASE_REVOKE, request).await;
    match revoked {
        // It has ended by itself.
        Err(error) if error::is(&error, Code::NotFound, "lease not found") => Ok(()),
        revoked => revoked.map(drop),
    }
}

/// As etcd counts: at least as long, and at least one.
fn seconds(duration: Duration) -> i64 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i64::try_from(whole.max(1)).unwrap_or(i64::MAX)
}

#[derive(Debug)]
struct Granted {
    store: Arc<EtcdStore>,
    config: LeaseConfig,
    version: Position,
    id: i64,
}

#[async_trait]
impl Hold for Granted {
    async fn renew(&self) -> Result<bool, StoreError> {
        if !self.store.members.keep_alive(self.id).await? {
            return Ok(false);
        }
        // Somebody may have deleted the key by hand, and another one have taken the lease.
        let record = self.store.get(&self.config.holder).await?;
        Ok(record.is_some_and(|record| record.version == self.version))
    }

    async fn release(&self) -> Result<(), StoreError> {
        let holder = self.config.holder.clone();
        let guard = Guard::Version(holder.clone(), self.version);
        match self.store.commit(Txn::of(vec![Write::delete(holder)]).guarded(guard)).await {
            Ok(_) | Err(CommitError::Conflict { .. } | CommitError::Contention { .. }) => {
                revoke(&self.store, self.id).await
            }
            Err(CommitError::Store(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_lease_is_shorter_than_asked() {
        for (millis, whole) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (15_000, 15)] {
            assert_eq!(seconds(Duration::from_millis(millis)), whole);
        }
    }
}
