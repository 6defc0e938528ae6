//! The tables of a replica in redb. Everything here blocks.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
};

use bytes::Bytes;
use orch_core::store::{CommitId, Entry, Incarnation, Key, Page, Position, Revision};
use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition,
    TableError, WriteTransaction,
};

use super::{
    log::{Keep, LOG, Log, LogBounds, META},
    segments::{ChunkKey, Segments, corrupt},
};
use crate::crdt::{
    applied::Applied,
    record::Record,
    segment::SegmentKey,
    tables::{Lookup, Tables},
};

const GARBAGE: TableDefinition<'_, SegmentKey, &[u8]> = TableDefinition::new("garbage");
/// By the bytes of the key: comparing texts would check each time that they are ones.
const VIEW: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("view");
/// In [`META`]: what a replica writes there. Where it is missing, the file is another program's.
const REPLICA: &str = "replica";
/// In [`META`]: the file's own incarnation, which its revisions belong to. No other file counts as it does.
const INCARNATION: &str = "incarnation";

/// Kind of tables found in a file.
pub(super) enum Found {
    Nothing,
    Replica,
    Foreign,
}

pub(super) fn inspect(database: &Database) -> Result<Found, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(meta) if meta.get(REPLICA)?.is_some() => Ok(Found::Replica),
        Err(TableError::TableDoesNotExist(_)) if transaction.list_tables()?.next().is_none() => {
            Ok(Found::Nothing)
        }
        Err(TableError::Storage(error)) => Err(error.into()),
        Ok(_) | Err(_) => Ok(Found::Foreign),
    }
}

/// The tables within one transaction that writes.
pub(super) struct DiskTables<'txn> {
    meta: Table<'txn, &'static str, &'static [u8]>,
    segments: Segments<Table<'txn, ChunkKey, &'static [u8]>>,
    garbage: Table<'txn, SegmentKey, &'static [u8]>,
    view: Table<'txn, &'static [u8], &'static [u8]>,
    log: Log<'txn>,
    bounds: LogBounds,
    /// Segments that the log names and that were removed in this transaction.
    removed: BTreeMap<SegmentKey, Bytes>,
    scratch: Vec<u8>,
    changed: bool,
}

impl<'txn> DiskTables<'txn> {
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        let meta = transaction.open_table(META)?;
        let bounds = LogBounds::read(&meta)?;
        Ok(Self {
            meta,
            segments: Segments::open(transaction)?,
            garbage: transaction.open_table(GARBAGE)?,
            view: transaction.open_table(VIEW)?,
            log: Log::new(transaction.open_table(LOG)?),
            bounds,
            removed: BTreeMap::new(),
            scratch: Vec::new(),
            changed: false,
        })
    }

    /// The file's incarnation, drawn when there is none.
    pub(super) fn incarnation(&mut self) -> Result<Incarnation, redb::Error> {
        let found = self.meta.get(INCARNATION)?.map(|found| incarnation_of(found.value())).transpose()?;
        if let Some(found) = found {
            return Ok(found);
        }
        let CommitId(drawn) = CommitId::random();
        self.meta.insert(INCARNATION, drawn.to_le_bytes().as_slice())?;
        self.changed = true;
        Ok(Incarnation(drawn))
    }

    /// True if anything was written.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// First revision of the log, and its bytes.
    pub(super) fn bounds(&self) -> LogBounds {
        self.bounds
    }

    /// Adds the revisions of a group to the log, and forgets what is too much. Comes last in a transaction.
    pub(super) fn log(&mut self, group: &[Applied], keep: Keep) -> Result<LogBounds, redb::Error> {
        let removed = std::mem::take(&mut self.removed);
        let bounds = self.log.append(self.bounds, group, &removed, keep)?;
        self.put_bounds(bounds)
    }

    /// Lets watches begin at `oldest` at the earliest.
    pub(super) fn forget(&mut self, oldest: Revision, head: Revision) -> Result<LogBounds, redb::Error> {
        let bounds = self.log.forget(self.bounds, oldest.min(head))?;
        self.put_bounds(bounds)
    }

    fn put_bounds(&mut self, bounds: LogBounds) -> Result<LogBounds, redb::Error> {
        if bounds != self.bounds {
            self.changed = true;
            self.bounds = bounds;
            bounds.write(&mut self.meta)?;
        }
        Ok(bounds)
    }
}

fn incarnation_of(bytes: &[u8]) -> Result<Incarnation, redb::Error> {
    let number = bytes.try_into().map_err(|_| corrupt("the incarnation"))?;
    Ok(Incarnation(u64::from_le_bytes(number)))
}

fn bytes_of(found: Option<redb::AccessGuard<'_, &'static [u8]>>) -> Option<Bytes> {
    found.map(|found| Bytes::copy_from_slice(found.value()))
}

fn record_of(found: Option<redb::AccessGuard<'_, &'static [u8]>>) -> Result<Option<Record>, redb::Error> {
    let decode = |bytes| Record::decode(bytes).map_err(|_| corrupt("a record"));
    bytes_of(found).map(decode).transpose()
}

impl Lookup for DiskTables<'_> {
    type Error = redb::Error;

    fn corrupt(what: &'static str) -> redb::Error {
        corrupt(what)
    }

    fn meta(&self, name: &str) -> Result<Option<Bytes>, redb::Error> {
        Ok(bytes_of(self.meta.get(name)?))
    }

    fn segment(&self, at: SegmentKey) -> Result<Option<Bytes>, redb::Error> {
        self.segments.get(at)
    }

    fn record(&self, key: &str) -> Result<Option<Record>, redb::Error> {
        record_of(self.view.get(key.as_bytes())?)
    }
}

impl Tables for DiskTables<'_> {
    fn put_meta(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), redb::Error> {
        self.changed = true;
        match value {
            Some(value) => drop(self.meta.insert(name, value)?),
            None => drop(self.meta.remove(name)?),
        }
        Ok(())
    }

    fn next_segment(&self, from: SegmentKey) -> Result<Option<(SegmentKey, Bytes)>, redb::Error> {
        self.segments.next(from)
    }

    fn put_segment(&mut self, at: SegmentKey, segment: &[u8], revision: Revision) -> Result<(), redb::Error> {
        self.changed = true;
        self.segments.put(at, segment, revision)
    }

    fn remove_segment(&mut self, at: SegmentKey) -> Result<(), redb::Error> {
        if self.is_in_history(at)?
            && let Some(segment) = self.segments.get(at)?
        {
            // What is put there later is another one.
            self.removed.entry(at).or_insert(segment);
        }
        self.changed = true;
        self.segments.remove_from(at, 0)
    }

    fn is_in_history(&self, at: SegmentKey) -> Result<bool, redb::Error> {
        Ok(self.segments.revision(at)?.is_some_and(|revision| revision > self.bounds.oldest))
    }

    fn garbage(&self, at: SegmentKey) -> Result<Option<Bytes>, redb::Error> {
        Ok(bytes_of(self.garbage.get(at)?))
    }

    fn next_garbage(&self, from: SegmentKey) -> Result<Option<(SegmentKey, Bytes)>, redb::Error> {
        let Some(found) = self.garbage.range(from..)?.next() else { return Ok(None) };
        let (at, note) = found?;
        Ok(Some((at.value(), Bytes::copy_from_slice(note.value()))))
    }

    fn put_garbage(&mut self, at: SegmentKey, note: Option<&[u8]>) -> Result<(), redb::Error> {
        self.changed = true;
        match note {
            Some(note) => drop(self.garbage.insert(at, note)?),
            None => drop(self.garbage.remove(at)?),
        }
        Ok(())
    }

    fn swap_record(&mut self, key: &str, record: Option<&Record>) -> Result<Option<Record>, redb::Error> {
        self.changed = true;
        let Some(record) = record else { return record_of(self.view.remove(key.as_bytes())?) };
        record.encode(&mut self.scratch);
        record_of(self.view.insert(key.as_bytes(), self.scratch.as_slice())?)
    }

    fn each_record(
        &self,
        from: Bound<&str>,
        visit: &mut dyn FnMut(&str, Record) -> ControlFlow<()>,
    ) -> Result<(), redb::Error> {
        for found in self.view.range::<&[u8]>((from.map(str::as_bytes), Bound::Unbounded))? {
            let (key, record) = found?;
            let key = std::str::from_utf8(key.value()).map_err(|_| corrupt("a key"))?;
            let record = Record::decode(Bytes::copy_from_slice(record.value()));
            if visit(key, record.map_err(|_| corrupt("a record"))?).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The tables as they were at one moment.
pub(super) struct DiskView {
    transaction: ReadTransaction,
    view: ReadOnlyTable<&'static [u8], &'static [u8]>,
    incarnation: Incarnation,
}

/// The position of a revision of a file with this incarnation.
pub(super) fn position(revision: Revision, incarnation: Incarnation) -> Position {
    match revision {
        Revision::ZERO => Position::ZERO,
        revision => Position::new(revision, incarnation),
    }
}

impl DiskView {
    /// The tables of a file with this incarnation.
    pub(super) fn open(database: &Database, incarnation: Incarnation) -> Result<Self, redb::Error> {
        let transaction = database.begin_read()?;
        Ok(Self { view: transaction.open_table(VIEW)?, transaction, incarnation })
    }

    pub(super) fn entry(&self, key: &Key) -> Result<Option<Entry>, redb::Error> {
        let Some(record) = self.record(key.as_str())? else { return Ok(None) };
        let Record { version, value, .. } = record;
        let version = position(version, self.incarnation);
        Ok(value.map(|value| Entry { key: key.clone(), value, version }))
    }

    /// Page of the view as of `revision`, which the caller knows it to be.
    pub(super) fn scan(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
        revision: Revision,
    ) -> Result<Page, redb::Error> {
        let start = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let position_of = |revision| position(revision, self.incarnation);
        let mut page = Page { position: position_of(revision), entries: Vec::new(), more: false };
        for found in self.view.range::<&[u8]>((start.map(str::as_bytes), Bound::Unbounded))? {
            let (key, record) = found?;
            if !key.value().starts_with(prefix.as_bytes()) {
                break;
            }
            let record = Record::decode(Bytes::copy_from_slice(record.value()));
            let Record { version, value, .. } = record.map_err(|_| corrupt("a record"))?;
            let Some(value) = value else { continue };
            if page.entries.len() == limit {
                page.more = true;
                break;
            }
            let key = std::str::from_utf8(key.value()).ok().and_then(|key| Key::new(key).ok());
            let key = key.ok_or_else(|| corrupt("a key"))?;
            page.entries.push(Entry { key, value, version: position_of(version) });
        }
        Ok(page)
    }

    /// The revision of the view.
    pub(super) fn revision(&self) -> Result<Revision, redb::Error> {
        let log = self.transaction.open_table(LOG)?;
        let last = log.last()?.map(|(revision, _)| Revision(revision.value()));
        let bounds = LogBounds::read(&self.transaction.open_table(META)?)?;
        Ok(last.unwrap_or(bounds.oldest))
    }
}

impl Lookup for DiskView {
    type Error = redb::Error;

    fn corrupt(what: &'static str) -> redb::Error {
        corrupt(what)
    }

    fn meta(&self, name: &str) -> Result<Option<Bytes>, redb::Error> {
        Ok(bytes_of(self.transaction.open_table(META)?.get(name)?))
    }

    fn segment(&self, at: SegmentKey) -> Result<Option<Bytes>, redb::Error> {
        Segments::open_read(&self.transaction)?.get(at)
    }

    fn record(&self, key: &str) -> Result<Option<Record>, redb::Error> {
        record_of(self.view.get(key.as_bytes())?)
    }
}
