//! Identity of the store's history. etcd keeps no identity of a commit beside each record, so the store has
//! one for all: a random number under `<namespace>/incarnation`, which every commit compares. A cluster that
//! was restored from a snapshot has that number, too. So each new connection is asked for a head that was
//! seen before, by its revision and the id that its commit gave it; if that is not there any more, the store
//! gets a new incarnation, before anything else is asked on that connection.

use bytes::Bytes;
use orch_core::store::{CommitId, Incarnation};
use parking_lot::Mutex;
use tonic::{Code, Status};

use super::{
    call::Caller,
    wire::{self, Compare, PutRequest, RangeRequest, Request},
};

/// Known history.
pub(super) struct History {
    /// The key whose revision is the store's, and whose value the id of the newest commit.
    pub(super) head: Bytes,
    /// The key of the incarnation.
    pub(super) incarnation: Bytes,
    known: Mutex<Known>,
}

#[derive(Clone, Default)]
struct Known {
    incarnation: Incarnation,
    /// Revision and value of the newest head that was seen in it.
    head: Option<(i64, Bytes)>,
}

impl History {
    pub(super) fn new(namespace: &str) -> Self {
        Self {
            head: format!("{namespace}/head").into(),
            incarnation: format!("{namespace}/incarnation").into(),
            known: Mutex::default(),
        }
    }

    /// That of the store, as far as it is known.
    pub(super) fn current(&self) -> Incarnation {
        self.known.lock().incarnation
    }

    /// The store has this incarnation now.
    pub(super) fn reach(&self, incarnation: Incarnation) {
        let mut known = self.known.lock();
        if known.incarnation != incarnation {
            *known = Known { incarnation, head: None };
        }
    }

    /// The head had this value at this revision of `incarnation`.
    pub(super) fn observe(&self, incarnation: Incarnation, revision: i64, value: Bytes) {
        let mut known = self.known.lock();
        let newer = known.head.as_ref().is_none_or(|(seen, _)| *seen < revision);
        if known.incarnation == incarnation && newer {
            known.head = Some((revision, value));
        }
    }

    /// The revision after the newest known head; zero, which is from now on for a watch, if none is known.
    pub(super) fn next_revision(&self) -> i64 {
        self.known.lock().head.as_ref().map_or(0, |(revision, _)| revision + 1)
    }

    /// The newest known head is too old to be looked for.
    pub(super) fn forget_head(&self) {
        self.known.lock().head = None;
    }

    /// That the store still has this incarnation.
    pub(super) fn unchanged(&self, since: Incarnation) -> Compare {
        Compare::has_value(self.incarnation.clone(), text(since))
    }

    /// Compares what is known with what is at the other end of a new connection. The store gets an
    /// incarnation if it has none, and a new one if a known head is not in its history.
    pub(super) async fn verify(&self, caller: impl Fn() -> Caller) -> Result<(), Status> {
        let known = self.known.lock().clone();
        let went_back = match known.head {
            Some((revision, value)) => {
                let at = RangeRequest { revision, ..super::one(self.head.clone()) };
                let found: Result<wire::RangeResponse, _> = caller().unary(wire::RANGE, at).await;
                match found {
                    Ok(found) => {
                        let there = |kv: &wire::KeyValue| kv.mod_revision == revision && kv.value == value;
                        !found.kvs.first().is_some_and(there)
                    }
                    // The history up to there is not kept any more; it reaches beyond it.
                    Err(status) if is_compacted(&status) => false,
                    // It is yet to come.
                    Err(status) if status.code() == Code::OutOfRange => true,
                    Err(status) => return Err(status),
                }
            }
            None => false,
        };
        let there: wire::RangeResponse =
            caller().unary(wire::RANGE, super::one(self.incarnation.clone())).await?;
        let mut there = there.kvs.into_iter().next();
        let is_lost = |kv: &wire::KeyValue| went_back && read(&kv.value) == Some(known.incarnation);
        // Asked for first: a cluster without space refuses a request that may write, and can be read.
        if there.as_ref().is_none_or(is_lost) {
            let CommitId(drawn) = CommitId::random();
            let drawn = Incarnation(drawn);
            let since = there.map_or(0, |kv| kv.mod_revision);
            let draw = wire::TxnRequest {
                compare: vec![Compare::unchanged_since(self.incarnation.clone(), since)],
                success: vec![Request::Put(PutRequest::new(self.incarnation.clone(), text(drawn))).into()],
                failure: vec![Request::Range(super::one(self.incarnation.clone())).into()],
            };
            let answer: wire::TxnResponse = caller().unary(wire::TXN, draw).await?;
            if answer.succeeded {
                if went_back {
                    tracing::error!(
                        "the cluster was restored from an older copy, or replaced: what was acknowledged in between is lost"
                    );
                }
                self.reach(drawn);
                return Ok(());
            }
            there = super::ranges_of(answer).next().and_then(|range| range.kvs.into_iter().next());
        }
        let found = there.and_then(|kv| read(&kv.value)).ok_or_else(|| {
            let key = String::from_utf8_lossy(&self.incarnation).into_owned();
            Status::data_loss(format!("{key} is not an incarnation; delete it"))
        })?;
        if went_back {
            // Somebody else was quicker; or the incarnation was another one before already.
            self.known.lock().head = None;
        }
        self.reach(found);
        Ok(())
    }
}

/// As it is stored: for people who look into the cluster.
pub(super) fn text(incarnation: Incarnation) -> String {
    format!("{:016x}", incarnation.0)
}

pub(super) fn read(value: &[u8]) -> Option<Incarnation> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() == 16)?;
    u64::from_str_radix(text, 16).ok().map(Incarnation)
}

pub(super) fn is_compacted(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("compacted")
}
