//! Forgetting what nobody needs any more.
//!
//! An entry is kept for three reasons: readers see it; a decision might take back what overwrote it; or it
//! says that something was deleted, and something older might still come. The first ends when it is
//! overwritten, the second when every member that is not offline has what overwrote it, the third when every
//! member has the delete and we have all that they had then.

use bytes::Bytes;
use orch_base::codec::{Input, Malformed};
use orch_core::model::Moment;
use orch_core::store::{Revision, Write};

use super::Replica;
use crate::crdt::{
    record::Record,
    segment::{Segment, SegmentKey},
    tables::Tables,
};

/// Notes that are looked at in one step.
const STEP: usize = 64;

/// Garbage note of a segment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Garbage {
    /// Entries that were overwritten: a hint, what counts is the view.
    pub(super) overwritten: u32,
    /// Some of its entries are deletes.
    pub(super) deletes: bool,
    /// Entries that are left in it.
    left: u32,
    /// Until everybody has this one, looking for overwritten entries finds no more than the last time.
    overwritten_by: Option<SegmentKey>,
    /// The same for deletes, until this one is covered.
    hidden_by: Option<SegmentKey>,
}

impl Garbage {
    fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(31);
        out.extend(self.overwritten.to_le_bytes());
        out.extend(self.left.to_le_bytes());
        out.push(u8::from(self.deletes));
        for segment in [self.overwritten_by, self.hidden_by] {
            // There is no position zero.
            let (author, position) = segment.unwrap_or_default();
            out.extend(author.to_le_bytes());
            out.extend(position.to_le_bytes());
        }
        out
    }

    fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        let (overwritten, left, deletes) = (input.u32()?, input.u32()?, input.flag()?);
        let mut segment = || Ok(Some((input.u16()?, input.u64()?)).filter(|(_, position)| *position > 0));
        let (overwritten_by, hidden_by) = (segment()?, segment()?);
        input.end()?;
        Ok(Self { overwritten, deletes, left, overwritten_by, hidden_by })
    }
}

impl Replica {
    /// Collects a bounded part of what can be. The host may call it after writing, too.
    ///
    /// # Errors
    /// When the tables fail; the replica is of no more use then.
    pub fn collect<T: Tables>(&mut self, tables: &mut T, now: Moment) -> Result<(), T::Error> {
        self.note_time(now);
        self.finish(tables)?;
        // What is missing here might be older than a delete.
        if self.repair.is_some() {
            return Ok(());
        }
        for _ in 0..STEP {
            let Some((at, note)) = tables.next_garbage(self.collected_to)? else {
                self.collected_to = (0, 0);
                break;
            };
            self.collected_to = (at.0, at.1 + 1);
            self.collect_one(tables, at, read::<T>(note)?)?;
        }
        self.finish(tables)
    }

    /// Adds to what is noted of a segment.
    pub(super) fn note<T: Tables>(
        &self,
        tables: &mut T,
        at: SegmentKey,
        more: Garbage,
    ) -> Result<(), T::Error> {
        let mut note = match tables.garbage(at)? {
            Some(note) => read::<T>(note)?,
            None => match self.own_segment(tables, at)? {
                Some(segment) => Garbage { left: count(&segment), ..Garbage::default() },
                None => return Ok(()),
            },
        };
        note.overwritten = note.overwritten.saturating_add(more.overwritten);
        note.deletes |= more.deletes;
        tables.put_garbage(at, Some(&note.encode()))
    }

    /// Part of a log was taken back: what waits for it is looked at again.
    pub(super) fn wait_no_longer<T: Tables>(
        &self,
        tables: &mut T,
        index: u16,
        after: u64,
    ) -> Result<(), T::Error> {
        let mut from = (0, 0);
        while let Some((at, note)) = tables.next_garbage(from)? {
            let mut note = read::<T>(note)?;
            for segment in [&mut note.overwritten_by, &mut note.hidden_by] {
                *segment = segment.filter(|segment| segment.0 != index || segment.1 <= after);
            }
            tables.put_garbage(at, Some(&note.encode()))?;
            from = (at.0, at.1 + 1);
        }
        Ok(())
    }

    fn collect_one<T: Tables>(
        &mut self,
        tables: &mut T,
        at: SegmentKey,
        note: Garbage,
    ) -> Result<(), T::Error> {
        let everybody_has = |segment: SegmentKey| segment.1 <= self.acknowledged_by_all(segment.0);
        let is_covered = |segment: SegmentKey| segment.1 <= self.covered_by_all(segment.0);
        // Rewriting a segment pays when half of it goes. Deletes go when they can.
        let overwritten = note.overwritten > 0 && note.overwritten.saturating_mul(2) >= note.left;
        let overwritten = overwritten && everybody_has(note.overwritten_by.unwrap_or(at));
        let deletes = note.deletes && is_covered(at) && is_covered(note.hidden_by.unwrap_or(at));
        if !(overwritten || deletes) || !everybody_has(at) || tables.is_in_history(at)? {
            return Ok(());
        }
        let Some(mut segment) = self.own_segment(tables, at)? else {
            return tables.put_garbage(at, None);
        };
        let left = count(&segment);
        let (mut kept, mut waiting, mut deletes) = (0u32, 0u32, 0u32);
        let (mut overwritten_by, mut hidden_by) = (None, None);
        let mut failure = None;
        segment.prune(|write| {
            let fate = self.fate(tables, at, write).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                Fate::Lives
            });
            match fate {
                Fate::Gone => return false,
                Fate::Lives => {}
                Fate::Overwritten { by } => {
                    waiting += 1;
                    overwritten_by = Some(by);
                }
                Fate::Delete { until } => {
                    deletes += 1;
                    hidden_by = Some(until);
                }
            }
            kept += 1;
            true
        });
        if let Some(error) = failure {
            return Err(error);
        }
        let is_head = at.1 == self.authors[usize::from(at.0)].head.position;
        if kept == 0 && !is_head {
            tables.remove_segment(at)?;
        } else if kept < left {
            tables.put_segment(at, &segment.encode(), Revision::ZERO)?;
        }
        // The last segment of a log stays, so that others see how far it goes; one without entries goes
        // later.
        let empty_head = u32::from(kept == 0 && is_head);
        let overwritten = waiting + empty_head;
        let note = Garbage { overwritten, deletes: deletes > 0, left: kept, overwritten_by, hidden_by };
        let look_again = note.overwritten > 0 || note.deletes;
        tables.put_garbage(at, look_again.then(|| note.encode()).as_deref())
    }

    /// Decides on an entry. Forgets the record of a delete that has done its work.
    fn fate<T: Tables>(&mut self, tables: &mut T, at: SegmentKey, write: &Write) -> Result<Fate, T::Error> {
        let key = write.key.as_str();
        let Some(record) = tables.record(key)? else { return Ok(Fate::Gone) };
        if !record.segments().any(|segment| segment == at) {
            let by = self.replacement(&record, at);
            let safe = by.1 <= self.acknowledged_by_all(by.0);
            return Ok(if safe { Fate::Gone } else { Fate::Overwritten { by } });
        }
        if !record.is_deleted_by_all() || record.at != at {
            return Ok(Fate::Lives);
        }
        let open = record.segments().find(|segment| segment.1 > self.covered_by_all(segment.0));
        let Some(until) = open else {
            // The entries of the others are looked at again, and find no record.
            record.others.iter().for_each(|other| self.overwrite(other.at));
            self.forgotten = self.forgotten.max(record.stamp);
            self.meta_changed = true;
            tables.swap_record(key, None)?;
            return Ok(Fate::Gone);
        };
        Ok(Fate::Delete { until })
    }

    /// Segment of the write that replaced one: the same author's, or the winner.
    fn replacement(&self, record: &Record, at: SegmentKey) -> SegmentKey {
        record.segments().find(|segment| segment.0 == at.0).unwrap_or(record.at)
    }
}

fn read<T: Tables>(note: Bytes) -> Result<Garbage, T::Error> {
    Garbage::decode(note).map_err(|_| T::corrupt("a note of what to collect"))
}

fn count(segment: &Segment) -> u32 {
    u32::try_from(segment.entries().count()).expect("entries are bounded")
}

enum Fate {
    /// Readers may see it.
    Lives,
    /// Overwritten, and that might be taken back.
    Overwritten { by: SegmentKey },
    /// A delete that may still have to hide something.
    Delete { until: SegmentKey },
    /// Nobody needs it.
    Gone,
}
