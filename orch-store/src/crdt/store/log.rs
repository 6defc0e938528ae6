//! The history on disk, for watches that begin in the past. It names entries of segments instead of writing
//! them once more; segments that it names stay whole until it has moved past them.

use std::collections::BTreeMap;

use bytes::Bytes;
use orch_base::codec::{Input, Malformed, put_bytes, put_list, put_short_text};
use orch_core::store::{Incarnation, Revision, StoreError, WatchBatch, Write};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

use super::{
    disk::position,
    segments::{Segments, corrupt},
};
use crate::{
    crdt::{
        applied::{Applied, Kept, Leaves},
        codec::InputExt as _,
        segment::{Segment, SegmentKey, entry_bytes},
    },
    file_store::redb_file::RedbFile,
};

/// Small records by name: the replica's, and the [`LogBounds`].
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// The last revision of a group to the changes of all its revisions.
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// In [`META`]: the [`LogBounds`].
const BOUNDS: &str = "log";

/// The earliest start of a watch, and how many bytes the writes since then have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct LogBounds {
    pub(super) oldest: Revision,
    pub(super) bytes: u64,
}

/// Retention of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) revisions: u64,
    pub(super) bytes: u64,
}

/// The log within a transaction that writes.
pub(super) struct Log<'txn> {
    rows: Table<'txn, u64, &'static [u8]>,
}

/// Log row of a commit group.
struct Row {
    /// The bytes of all that they wrote, wherever it is.
    bytes: u64,
    revisions: Vec<Revised>,
}

/// A revision, as the log has it.
struct Revised {
    revision: Revision,
    /// Writes that are entries of a segment.
    there: Option<(SegmentKey, Leaves)>,
    /// The others.
    here: Vec<Write>,
}

impl<'txn> Log<'txn> {
    pub(super) fn new(rows: Table<'txn, u64, &'static [u8]>) -> Self {
        Self { rows }
    }

    /// Adds the revisions of a group, and forgets what is too much. `removed` are segments that were named
    /// and removed.
    pub(super) fn append(
        &mut self,
        mut bounds: LogBounds,
        group: &[Applied],
        removed: &BTreeMap<SegmentKey, Bytes>,
        keep: Keep,
    ) -> Result<LogBounds, redb::Error> {
        if !removed.is_empty() {
            self.inline_removed(removed)?;
        }
        let Some(last) = group.last().map(|applied| applied.revision) else { return Ok(bounds) };
        let row = Row::of(group, removed);
        self.rows.insert(last.0, row.encode().as_slice())?;
        bounds.bytes += row.bytes;
        let mut forget = bounds.oldest;
        let mut left = bounds.bytes;
        for found in self.rows.iter()? {
            let (end, row) = found?;
            let end = Revision(end.value());
            let surplus = last.0 - forget.0 > keep.revisions || left > keep.bytes;
            if end == last || !surplus {
                break;
            }
            forget = end;
            left -= bytes_of(row.value())?;
        }
        if forget > bounds.oldest {
            self.rows.retain_in(..=forget.0, |_, _| false)?;
            bounds = LogBounds { oldest: forget, bytes: left };
        }
        Ok(bounds)
    }

    /// Lets watches begin at `oldest` at the earliest.
    pub(super) fn forget(
        &mut self,
        mut bounds: LogBounds,
        oldest: Revision,
    ) -> Result<LogBounds, redb::Error> {
        bounds.oldest = oldest.max(bounds.oldest);
        for row in self.rows.extract_from_if(..=bounds.oldest.0, |_, _| true)? {
            bounds.bytes -= bytes_of(row?.1.value())?;
        }
        Ok(bounds)
    }

    /// Inlines entries of removed segments where they were named.
    fn inline_removed(&mut self, removed: &BTreeMap<SegmentKey, Bytes>) -> Result<(), redb::Error> {
        let mut changed = Vec::new();
        for found in self.rows.iter()? {
            let (end, row) = found?;
            let mut row = Row::decode(Bytes::copy_from_slice(row.value())).map_err(|_| corrupt("the log"))?;
            let mut found = false;
            for revised in &mut row.revisions {
                let Some(bytes) = revised.there.as_ref().and_then(|(at, _)| removed.get(at)) else {
                    continue;
                };
                let segment = Segment::decode_own(bytes.clone()).map_err(|_| corrupt("a segment"))?;
                revised.gather(&segment);
                revised.there = None;
                found = true;
            }
            if found {
                changed.push((end.value(), row.encode()));
            }
        }
        for (end, row) in changed {
            self.rows.insert(end, row.as_slice())?;
        }
        Ok(())
    }
}

impl LogBounds {
    pub(super) fn read(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Self, redb::Error> {
        let Some(found) = meta.get(BOUNDS)? else { return Ok(Self::default()) };
        let bytes = found.value();
        match (bytes.first_chunk(), bytes.last_chunk()) {
            (Some(oldest), Some(size)) if bytes.len() == 16 => {
                Ok(Self { oldest: Revision(u64::from_le_bytes(*oldest)), bytes: u64::from_le_bytes(*size) })
            }
            _ => Err(corrupt("the bounds of the log")),
        }
    }

    pub(super) fn write(self, meta: &mut Table<'_, &'static str, &'static [u8]>) -> Result<(), redb::Error> {
        let bytes = [self.oldest.0.to_le_bytes(), self.bytes.to_le_bytes()].concat();
        meta.insert(BOUNDS, bytes.as_slice())?;
        Ok(())
    }
}

/// The revisions after `after`, at most `limit`, at least one.
pub(super) fn read_log(
    file: &RedbFile,
    incarnation: Incarnation,
    after: Revision,
    limit: usize,
) -> Result<Vec<WatchBatch>, StoreError> {
    let found = file.read(|database| read(database, incarnation, after, limit))?;
    found.map_err(|oldest| StoreError::Compacted { oldest: position(oldest, incarnation) })
}

fn read(
    database: &Database,
    incarnation: Incarnation,
    after: Revision,
    limit: usize,
) -> Result<Result<Vec<WatchBatch>, Revision>, redb::Error> {
    let transaction = database.begin_read()?;
    let LogBounds { oldest, .. } = LogBounds::read(&transaction.open_table(META)?)?;
    if after < oldest {
        return Ok(Err(oldest));
    }
    let (log, segments) = (transaction.open_table(LOG)?, Segments::open_read(&transaction)?);
    let mut batches = Vec::new();
    // Revisions that follow each other are mostly of one segment.
    let mut latest: Option<(SegmentKey, Segment)> = None;
    for found in log.range(after.0 + 1..)? {
        let row = Row::decode(Bytes::copy_from_slice(found?.1.value())).map_err(|_| corrupt("the log"))?;
        for mut revised in row.revisions.into_iter().filter(|revised| revised.revision > after) {
            if batches.len() == limit {
                return Ok(Ok(batches));
            }
            if let Some(at) = revised.there.as_ref().map(|(at, _)| *at) {
                if latest.as_ref().is_none_or(|(latest, _)| *latest != at) {
                    let bytes = segments.get(at)?.ok_or_else(|| corrupt("the log"))?;
                    latest = Some((at, Segment::decode_own(bytes).map_err(|_| corrupt("a segment"))?));
                }
                latest.iter().for_each(|(_, segment)| revised.gather(segment));
            }
            batches
                .push(WatchBatch { position: position(revised.revision, incarnation), writes: revised.here });
        }
    }
    Ok(Ok(batches))
}

impl Revised {
    /// Adds the entries of the segment that were named.
    fn gather(&mut self, segment: &Segment) {
        let Some((_, leaves)) = &mut self.there else { return };
        let entries = segment.leaves().filter(|(leaf, _)| leaves.take(*leaf));
        self.here.extend(entries.map(|(_, write)| write.clone()));
        self.here.sort_by(|a, b| a.key.cmp(&b.key));
    }
}

impl Row {
    fn of(group: &[Applied], removed: &BTreeMap<SegmentKey, Bytes>) -> Self {
        let mut bytes = 0;
        let revised = |Applied { revision, writes, kept }: &Applied| {
            let size = |write: &Write| entry_bytes(&write.key, write.value.as_ref()) as u64;
            bytes += 32 + writes.iter().map(size).sum::<u64>();
            let (there, here) = match kept {
                Some(Kept { at, leaves, rest }) if !removed.contains_key(at) => {
                    (Some((*at, leaves.clone())), rest.clone())
                }
                _ => (None, writes.clone()),
            };
            Revised { revision: *revision, there, here }
        };
        let revisions = group.iter().map(revised).collect();
        Self { bytes, revisions }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = self.bytes.to_le_bytes().to_vec();
        put_list(&self.revisions, &mut out, |Revised { revision, there, here }, out| {
            out.extend(revision.0.to_le_bytes());
            out.push(u8::from(there.is_some()));
            if let Some(((author, position), leaves)) = there {
                out.extend(author.to_le_bytes());
                out.extend(position.to_le_bytes());
                leaves.put(out);
            }
            put_list(here, out, |Write { key, value }, out| {
                put_short_text(key.as_str(), out);
                out.push(u8::from(value.is_some()));
                if let Some(value) = value {
                    put_bytes(value, out);
                }
            });
        });
        out
    }

    fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        let bytes = input.u64()?;
        let revisions = input.list(13, usize::MAX, |input| {
            let revision = Revision(input.u64()?);
            let there = match input.flag()? {
                true => Some(((input.u16()?, input.u64()?), Leaves::read(input)?)),
                false => None,
            };
            let here = input.list(3, usize::MAX, |input| {
                let key = input.key()?;
                let value = input.flag()?.then(|| input.bytes()).transpose()?;
                Ok(Write { key, value })
            })?;
            Ok(Revised { revision, there, here })
        })?;
        input.end()?;
        Ok(Self { bytes, revisions })
    }
}

/// The first field of a row.
fn bytes_of(row: &[u8]) -> Result<u64, redb::Error> {
    row.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).ok_or_else(|| corrupt("the log"))
}
