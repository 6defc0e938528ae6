//! Our own writes: each group of transactions becomes a segment.

use std::collections::BTreeMap;

use bytes::Bytes;
use orch_core::{
    model::Moment,
    store::{Guard, Key, Revision, Txn, Write},
    transport::PeerId,
};

use super::{Effect, Replica};
use crate::crdt::{
    applied::Applied,
    clock::Stamp,
    merkle::Hash,
    message::Message,
    owned::Owned,
    segment::{
        Leaf, SEGMENT_BYTES_MAX, SEGMENT_ENTRIES_MAX, SEGMENT_FRAME, Segment, SegmentKey, VALUE_BYTES_MAX,
        entry_bytes,
    },
    tables::Tables,
};

/// Transactions share a segment up to this size: a little below a power of two, which is what pages of a disk
/// are.
const SHARED_BYTES: usize = 252 << 10;

/// A transaction with the hashes of its writes. They take a while, so whoever asks may make them before its
/// turn comes.
#[derive(Clone, Debug)]
pub struct Prepared {
    guards: Vec<Guard>,
    /// In order of their keys, each once.
    leaves: Vec<Leaf>,
}

/// Outcome of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// It was applied here, as this revision.
    Applied(Revision),
    /// A guard did not hold here.
    Conflict(Key),
    /// It cannot be written.
    Refused(Refusal),
}

/// Why a replica does not write something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Only members write.
    #[error("this replica is no member of the group (yet): a decision has to let it join")]
    NotAMember,
    /// Nobody has said yet that our disk is up to date.
    #[error(
        "too few other members confirmed this log since the start ({confirmed} of {needed}); writing waits for the startup quorum"
    )]
    NoStartupQuorum {
        /// Members that confirmed.
        confirmed: usize,
        /// Members that have to.
        needed: usize,
    },
    /// There are two logs of ours.
    #[error(
        "two segments of this author are known for one position; a decision has to settle which one counts"
    )]
    Equivocated,
    /// Written below somebody else's prefix.
    #[error("{key} belongs to author {owner}; nobody else writes there")]
    Owned {
        /// The key.
        key: Key,
        /// Author or owner.
        owner: PeerId,
    },
    /// More than a segment takes.
    #[error("a transaction of {size} {what} is too large; at most {max} are taken")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// Actual size.
        size: usize,
        /// Largest size.
        max: usize,
    },
}

impl Prepared {
    /// Makes the hashes, and lets others go on meanwhile.
    pub(in crate::crdt) async fn hash_cooperatively(txn: Txn) -> Self {
        /// Entries that are hashed in a millisecond or two.
        const PART: usize = 4096;
        let guards = txn.guards.clone();
        let net = txn.into_net_writes();
        let mut leaves = Vec::with_capacity(net.len());
        for (key, value) in net {
            leaves.push(Leaf::new(Write { key, value }));
            if leaves.len().is_multiple_of(PART) {
                tokio::task::yield_now().await;
            }
        }
        Self { guards, leaves }
    }
}

impl From<Txn> for Prepared {
    fn from(txn: Txn) -> Self {
        let guards = txn.guards.clone();
        let leaves = txn.into_net_writes().into_iter().map(|(key, value)| Leaf::new(Write { key, value }));
        Self { guards, leaves: leaves.collect() }
    }
}

impl Replica {
    /// Applies transactions one after the other. They become few segments, and go to all members.
    ///
    /// # Errors
    /// When the tables fail; the replica is of no more use then.
    pub fn write<T: Tables>(
        &mut self,
        tables: &mut T,
        now: Moment,
        txns: impl IntoIterator<Item = impl Into<Prepared>>,
        out: &mut Vec<Effect>,
    ) -> Result<Vec<TxnOutcome>, T::Error> {
        let mut draft = None;
        let mut outcomes = Vec::new();
        for txn in txns {
            outcomes.push(self.write_one(tables, now, txn.into(), &mut draft, out)?);
        }
        self.sign(tables, draft, out)?;
        self.finish(tables)?;
        Ok(outcomes)
    }

    /// True if this replica writes at the moment.
    pub(super) fn may_write(&self) -> Result<(), Refusal> {
        let author = self.me.map(|me| &self.authors[usize::from(me)]);
        let author = author.filter(|author| author.member).ok_or(Refusal::NotAMember)?;
        if author.evidence.is_some() {
            return Err(Refusal::Equivocated);
        }
        let needed = self.config.startup_quorum.min(self.others().count());
        match self.confirmed_us.len() {
            confirmed if confirmed < needed => Err(Refusal::NoStartupQuorum { confirmed, needed }),
            _ => Ok(()),
        }
    }

    fn write_one<T: Tables>(
        &mut self,
        tables: &mut T,
        now: Moment,
        txn: Prepared,
        draft: &mut Option<Draft>,
        out: &mut Vec<Effect>,
    ) -> Result<TxnOutcome, T::Error> {
        for guard in &txn.guards {
            if !holds(tables, guard)? {
                return Ok(TxnOutcome::Conflict(guard.key().clone()));
            }
        }
        if !txn.leaves.is_empty()
            && let Err(refusal) = self.may_write().and_then(|()| self.check(&txn.leaves))
        {
            return Ok(TxnOutcome::Refused(refusal));
        }
        let revision = self.next_revision();
        let (size, entries) = (bytes_of(&txn.leaves), txn.leaves.len());
        if entries > 0 && draft.as_ref().is_some_and(|draft| !draft.fits(size, entries)) {
            self.sign(tables, draft.take(), out)?;
        }
        if entries == 0 {
            // It signs nothing.
            let applied = Applied::new(revision, None);
            match draft {
                Some(draft) => draft.applied.push(applied),
                None => out.push(Effect::Applied(applied)),
            }
            return Ok(TxnOutcome::Applied(revision));
        }
        let me = self.me.expect("who writes is an author");
        let draft = draft.get_or_insert_with(|| {
            let position = self.authors[usize::from(me)].head.position + 1;
            Draft::new((me, position), self.clock.next(now.wall))
        });
        let mut applied = Applied::new(revision, Some(draft.at));
        applied.writes.reserve(entries);
        for Leaf { write: Write { key, value }, hash } in txn.leaves {
            let visible =
                self.apply_entry(tables, (draft.at, draft.stamp), revision, &key, value.as_ref())?;
            draft.put(&key, value.clone(), hash, visible);
            if visible {
                applied.writes.push(Write { key, value });
            }
        }
        draft.applied.push(applied);
        Ok(TxnOutcome::Applied(revision))
    }

    /// Refuses what a segment cannot hold.
    fn check(&self, leaves: &[Leaf]) -> Result<(), Refusal> {
        for Leaf { write, .. } in leaves {
            let size = write.value.as_ref().map_or(0, Bytes::len);
            if size > VALUE_BYTES_MAX {
                return Err(Refusal::TooLarge { what: "bytes in one value", size, max: VALUE_BYTES_MAX });
            }
            if let Some(owner) = self.foreign_owner(self.key.author(), &write.key) {
                return Err(Refusal::Owned { key: write.key.clone(), owner });
            }
        }
        let (size, bytes) = (leaves.len(), SEGMENT_FRAME + bytes_of(leaves));
        if size > SEGMENT_ENTRIES_MAX {
            return Err(Refusal::TooLarge { what: "writes", size, max: SEGMENT_ENTRIES_MAX });
        }
        if bytes > SEGMENT_BYTES_MAX {
            return Err(Refusal::TooLarge { what: "bytes", size: bytes, max: SEGMENT_BYTES_MAX });
        }
        Ok(())
    }

    /// The owner of the key, if it is another author than this one, or one that this one replaced.
    pub(super) fn foreign_owner(&self, author: PeerId, key: &Key) -> Option<PeerId> {
        let owner = Owned::owner(key)?;
        let mut holder = owner;
        // Rotations never form a circle, because a key joins once.
        while holder != author {
            let index = self.by_id.get(&holder);
            match index.and_then(|index| self.authors[usize::from(*index)].successor) {
                Some(successor) => holder = successor,
                None => return Some(owner),
            }
        }
        None
    }

    fn sign<T: Tables>(
        &mut self,
        tables: &mut T,
        draft: Option<Draft>,
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let Some(Draft { at, stamp, writes, mut applied, .. }) = draft else { return Ok(()) };
        let previous = self.authors[usize::from(at.0)].head;
        let deletes = writes.values().any(|entry| entry.value.is_none());
        let entries = writes.into_iter().enumerate().map(|(leaf, (key, entry))| {
            if let Some(kept) = entry.visible_in.and_then(|number| applied[number].kept.as_mut()) {
                kept.leaves.push(leaf);
            }
            Leaf { write: Write { key, value: entry.value }, hash: entry.hash }
        });
        let (segment, bytes) = Segment::sign_encoded(&self.key, self.config.group, previous, stamp, entries);
        tables.put_segment(at, &bytes, self.revision)?;
        out.extend(applied.into_iter().map(Effect::Applied));
        if deletes {
            self.garbage.entry(at).or_default().deletes = true;
        }
        self.authors[usize::from(at.0)].reach(segment.signed().head(), stamp);
        self.changed.insert(at.0);
        let message = Message::Supply {
            author: self.key.author(),
            after: previous.position,
            more: false,
            segments: vec![bytes.into()],
        };
        out.extend(self.others().map(|peer| Effect::Send(peer, message.clone())));
        Ok(())
    }
}

/// A segment before it is signed. The view has its entries already.
struct Draft {
    at: SegmentKey,
    stamp: Stamp,
    writes: BTreeMap<Key, Entry>,
    bytes: usize,
    /// Changes of its transactions, in their order.
    applied: Vec<Applied>,
}

struct Entry {
    value: Option<Bytes>,
    hash: Hash,
    /// The number in `applied` of the transaction in which readers saw it, if they did.
    visible_in: Option<usize>,
}

impl Draft {
    fn new(at: SegmentKey, stamp: Stamp) -> Self {
        Self { at, stamp, writes: BTreeMap::new(), bytes: SEGMENT_FRAME, applied: Vec::new() }
    }

    fn fits(&self, bytes: usize, entries: usize) -> bool {
        self.bytes + bytes <= SHARED_BYTES && self.writes.len() + entries <= SEGMENT_ENTRIES_MAX
    }

    /// Adds an entry of the transaction that comes next in `applied`.
    fn put(&mut self, key: &Key, value: Option<Bytes>, hash: Hash, visible: bool) {
        self.bytes += entry_bytes(key, value.as_ref());
        let entry = Entry { value, hash, visible_in: visible.then_some(self.applied.len()) };
        let Some(before) = self.writes.insert(key.clone(), entry) else { return };
        if let Some(kept) = before.visible_in.and_then(|number| self.applied[number].kept.as_mut()) {
            kept.rest.push(Write { key: key.clone(), value: before.value });
        }
    }
}

fn bytes_of(leaves: &[Leaf]) -> usize {
    leaves.iter().map(|Leaf { write, .. }| entry_bytes(&write.key, write.value.as_ref())).sum()
}

fn holds<T: Tables>(tables: &T, guard: &Guard) -> Result<bool, T::Error> {
    let record = tables.record(guard.key().as_str())?;
    let stored = record.filter(|record| record.value.is_some()).map(|record| record.version);
    Ok(match guard {
        Guard::Absent(_) => stored.is_none(),
        // That it is of this file's history was checked before.
        Guard::Version(_, version) => stored == Some(version.revision),
    })
}
