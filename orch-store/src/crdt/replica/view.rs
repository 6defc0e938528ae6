//! Merge of writes into the view: the last one wins.

use std::cmp::Ordering;

use bytes::Bytes;
use orch_core::store::{Key, Revision};

use super::Replica;
use crate::crdt::{
    clock::Stamp,
    merkle::Hash,
    record::{Candidate, Record},
    segment::SegmentKey,
    tables::Tables,
};

impl Replica {
    /// Takes a write into the view. Says whether readers see a change.
    pub(super) fn apply_entry<T: Tables>(
        &mut self,
        tables: &mut T,
        (at, stamp): (SegmentKey, Stamp),
        revision: Revision,
        key: &Key,
        value: Option<&Bytes>,
    ) -> Result<bool, T::Error> {
        let new = Record { version: revision, value: value.cloned(), at, stamp, others: Vec::new() };
        if self.config.confirmations.get() > 1 {
            return self.place_among_others(tables, key, new);
        }
        let deletes = new.value.is_none();
        // Mostly the new one wins, so that one access does.
        let Some(old) = tables.swap_record(key.as_str(), Some(&new))? else { return Ok(!deletes) };
        if old.at == at {
            return Ok(!(deletes && old.value.is_none()));
        }
        if self.order((old.stamp, old.at), (stamp, at)).is_lt() {
            self.overwrite(old.at);
            return Ok(!(deletes && old.value.is_none()));
        }
        tables.swap_record(key.as_str(), Some(&old))?;
        self.overwrite(at);
        Ok(false)
    }

    /// The same where the writes of several authors are kept side by side.
    fn place_among_others<T: Tables>(
        &mut self,
        tables: &mut T,
        key: &Key,
        new: Record,
    ) -> Result<bool, T::Error> {
        let Some(old) = tables.record(key.as_str())? else {
            tables.swap_record(key.as_str(), Some(&new))?;
            return Ok(new.value.is_some());
        };
        let mut all: Vec<Candidate> = std::iter::once(old.winner()).chain(old.others.clone()).collect();
        if let Some(same) = all.iter().position(|candidate| candidate.at.0 == new.at.0) {
            let known = all[same];
            if known.at != new.at {
                let (older, newer) =
                    if known.stamp < new.stamp { (known.at, new.at) } else { (new.at, known.at) };
                self.overwrite(older);
                if newer == known.at {
                    return Ok(false);
                }
            }
            all.remove(same);
        }
        all.push(new.winner());
        all.sort_by(|a, b| self.order((b.stamp, b.at), (a.stamp, a.at)));
        let winner = all.remove(0);
        let ours = winner.at == new.at;
        // Who has won before wins still, unless the new one does: an author's newest write only ever becomes
        // newer.
        let value = if ours { new.value } else { old.value.clone() };
        let visible = ours && !(value.is_none() && old.value.is_none());
        let version = if ours { new.version } else { old.version };
        let record = Record { version, value, at: winner.at, stamp: winner.stamp, others: all };
        tables.swap_record(key.as_str(), Some(&record))?;
        if record.is_deleted_by_all() {
            // The winner may have been there before, and have been kept for what another one said until now.
            self.garbage.entry(record.at).or_default().deletes = true;
        }
        Ok(visible)
    }

    /// The later stamp is greater; of equal ones that of the greater author, which is the same in all
    /// replicas.
    pub(super) fn order(&self, a: (Stamp, SegmentKey), b: (Stamp, SegmentKey)) -> Ordering {
        let id = |at: SegmentKey| self.authors[usize::from(at.0)].id;
        a.0.cmp(&b.0).then_with(|| id(a.1).cmp(&id(b.1)))
    }

    pub(super) fn overwrite(&mut self, at: SegmentKey) {
        self.garbage.entry(at).or_default().overwritten += 1;
    }

    /// A hash over everything that readers see, and who wrote it: equal in replicas with the same view.
    ///
    /// # Errors
    /// When the view cannot be read.
    pub fn digest<T: Tables>(&self, tables: &T) -> Result<Hash, T::Error> {
        let mut hasher = blake3::Hasher::new();
        tables.each_record(std::ops::Bound::Unbounded, &mut |key, record| {
            if let Some(value) = &record.value {
                hasher.update(&(key.len() as u64).to_le_bytes()).update(key.as_bytes());
                hasher.update(&(value.len() as u64).to_le_bytes()).update(value);
                hasher.update(&record.stamp.0.to_le_bytes());
                hasher.update(self.authors[usize::from(record.at.0)].id.as_bytes());
            }
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(Hash(hasher.finalize().into()))
    }
}
