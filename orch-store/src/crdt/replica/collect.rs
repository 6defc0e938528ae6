//! Forgetting what nobody needs any more.
//!
//! An entry is kept for three reasons: readers see it; a decision might take back what overwrote it; or it says that
//! something was deleted, and something older might still come. The first ends when it is overwritten, the second when every
//! member that is not away has what overwrote it, the third when every member has the delete and we have all that they
//! had then.

use super::{Moment, Replica};
use crate::crdt::{
    record::Record,
    segment::Segment,
    tables::{At, Tables},
};
use orch_core::store::Write;

/// Notes that are looked at in one step.
const STEP: usize = 64;

/// What there is to collect in a segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Garbage {
    /// Entries that were overwritten: a hint, what counts is the view.
    pub(super) overwritten: u32,
    /// Some of its entries are deletes.
    pub(super) deletes: bool,
    /// Entries that are left in it.
    left: u32,
}

impl Garbage {
    const DELETES: u64 = 1 << 63;

    fn pack(self) -> u64 {
        // A segment has at most 65,536 entries.
        u64::from(self.overwritten)
            | u64::from(self.left) << 32
            | if self.deletes { Self::DELETES } else { 0 }
    }

    #[expect(clippy::cast_possible_truncation, reason = "it takes the number apart")]
    fn unpack(note: u64) -> Self {
        let left = (note & !Self::DELETES) >> 32;
        Self { overwritten: note as u32, deletes: note & Self::DELETES != 0, left: left as u32 }
    }
}

impl Replica {
    /// Collects a bounded part of what can be. The host may call it after writing, too.
    ///
    /// # Errors
    /// When the tables fail; the replica is of no more use then.
    pub fn collect<T: Tables>(&mut self, tables: &mut T, now: Moment) -> Result<(), T::Error> {
        self.see(now);
        self.finish(tables)?;
        // What is missing here might be older than a delete.
        if self.fill.is_some() {
            return Ok(());
        }
        for _ in 0..STEP {
            let Some((at, note)) = tables.next_garbage(self.collected_to)? else {
                self.collected_to = (0, 0);
                break;
            };
            self.collected_to = (at.0, at.1 + 1);
            self.collect_one(tables, at, Garbage::unpack(note))?;
        }
        self.finish(tables)
    }

    /// Adds to what is noted of a segment.
    pub(super) fn note<T: Tables>(&self, tables: &mut T, at: At, more: Garbage) -> Result<(), T::Error> {
        let mut note = match tables.garbage(at)? {
            Some(note) => Garbage::unpack(note),
            None => match self.own_segment(tables, at)? {
                Some(segment) => Garbage { left: count(&segment), ..Garbage::default() },
                None => return Ok(()),
            },
        };
        note.overwritten = note.overwritten.saturating_add(more.overwritten);
        note.deletes |= more.deletes;
        tables.put_garbage(at, Some(note.pack()))
    }

    fn collect_one<T: Tables>(&mut self, tables: &mut T, at: At, note: Garbage) -> Result<(), T::Error> {
        // Rewriting a segment pays when half of it goes. Deletes go when they can.
        let overwritten = note.overwritten > 0 && note.overwritten.saturating_mul(2) >= note.left;
        let deletes = note.deletes && at.1 <= self.covered_by_all(at.0);
        if at.1 > self.acknowledged_by_all(at.0) || !(overwritten || deletes) {
            return Ok(());
        }
        let Some(mut segment) = self.own_segment(tables, at)? else {
            return tables.put_garbage(at, None);
        };
        let left = count(&segment);
        let (mut kept, mut waiting, mut deletes) = (0u32, 0u32, 0u32);
        let mut failure = None;
        segment.prune(|write| {
            let fate = self.fate(tables, at, write).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                Fate::Lives
            });
            match fate {
                Fate::Gone => return false,
                Fate::Lives => {}
                Fate::Overwritten => waiting += 1,
                Fate::Delete => deletes += 1,
            }
            kept += 1;
            true
        });
        if let Some(error) = failure {
            return Err(error);
        }
        let is_head = at.1 == self.authors[usize::from(at.0)].head.position;
        if kept == 0 && !is_head {
            tables.put_segment(at, None)?;
        } else if kept < left {
            tables.put_segment(at, Some(&segment.encode()))?;
        }
        // The last segment of a log stays, so that others see how far it goes; one without entries goes later.
        let empty_head = u32::from(kept == 0 && is_head);
        let note = Garbage { overwritten: waiting + empty_head, deletes: deletes > 0, left: kept };
        let look_again = note.overwritten > 0 || note.deletes;
        tables.put_garbage(at, look_again.then(|| note.pack()))
    }

    /// What is to become of an entry. Forgets the record of a delete that has done its work.
    fn fate<T: Tables>(&mut self, tables: &mut T, at: At, write: &Write) -> Result<Fate, T::Error> {
        let key = write.key.as_str();
        let Some(record) = tables.record(key)? else { return Ok(Fate::Gone) };
        if !record.places().any(|place| place == at) {
            let overwritten_by = self.replacement(&record, at);
            let safe = overwritten_by.1 <= self.acknowledged_by_all(overwritten_by.0);
            return Ok(if safe { Fate::Gone } else { Fate::Overwritten });
        }
        if record.value.is_some() || record.at != at {
            return Ok(Fate::Lives);
        }
        if record.places().all(|place| place.1 <= self.covered_by_all(place.0)) {
            // The entries of the others are looked at again, and find no record.
            record.others.iter().for_each(|other| self.overwrite(other.at));
            self.forgotten = self.forgotten.max(record.stamp);
            self.meta_changed = true;
            tables.swap_record(key, None)?;
            return Ok(Fate::Gone);
        }
        Ok(Fate::Delete)
    }

    /// Where the write is that took the place of one: the same author's, or the winner.
    fn replacement(&self, record: &Record, at: At) -> At {
        record.places().find(|place| place.0 == at.0).unwrap_or(record.at)
    }
}

fn count(segment: &Segment) -> u32 {
    u32::try_from(segment.entries().count()).expect("entries are bounded")
}

enum Fate {
    /// Readers may see it.
    Lives,
    /// Overwritten, and that might be taken back.
    Overwritten,
    /// A delete that may still have to hide something.
    Delete,
    /// Nobody needs it.
    Gone,
}
