//! The tables of a replica in redb, and the log that watches read. Everything here blocks.

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use orch_core::store::{Entry, Key, Page, Revision, StoreError, WatchBatch, Write};
use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition,
    TableError, WriteTransaction,
};

use crate::{
    crdt::{
        codec::{Input, Malformed, put_bytes, put_list, put_text},
        record::Record,
        segment::Applied,
        tables::{At, Lookup, Tables},
    },
    file::File,
};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const SEGMENTS: TableDefinition<'_, At, &[u8]> = TableDefinition::new("segments");
const GARBAGE: TableDefinition<'_, At, u64> = TableDefinition::new("garbage");
/// By the bytes of the key: comparing texts would check each time that they are ones.
const VIEW: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("view");
/// The last revision of a group to the changes of all its revisions.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// In [`META`]: the earliest start of a watch, and the bytes of [`LOG`].
const LOG_EXTENT: &str = "log";
/// In [`META`]: what a replica writes there. Where it is missing, the file is another program's.
const REPLICA: &str = "replica";

/// Whose tables a file has.
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
    segments: Table<'txn, At, &'static [u8]>,
    garbage: Table<'txn, At, u64>,
    view: Table<'txn, &'static [u8], &'static [u8]>,
    log: Table<'txn, u64, &'static [u8]>,
    scratch: Vec<u8>,
    changed: bool,
}

/// The earliest start of a watch, and how many bytes the log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Extent {
    pub(super) oldest: Revision,
    pub(super) bytes: u64,
}

/// How much of the log is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) revisions: u64,
    pub(super) bytes: u64,
}

impl<'txn> DiskTables<'txn> {
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            meta: transaction.open_table(META)?,
            segments: transaction.open_table(SEGMENTS)?,
            garbage: transaction.open_table(GARBAGE)?,
            view: transaction.open_table(VIEW)?,
            log: transaction.open_table(LOG)?,
            scratch: Vec::new(),
            changed: false,
        })
    }

    /// Whether anything was written.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// Where the log begins, and how large it is.
    pub(super) fn extent(&self) -> Result<Extent, redb::Error> {
        read_extent(&self.meta)
    }

    /// Adds the revisions of a group to the log, and forgets what is too much.
    pub(super) fn log(&mut self, group: &[Applied], keep: Keep) -> Result<Extent, redb::Error> {
        let mut extent = self.extent()?;
        let Some(last) = group.last() else { return Ok(extent) };
        let row = encode_group(group);
        self.log.insert(last.revision.0, row.as_slice())?;
        extent.bytes += row.len() as u64;
        let mut forget = extent.oldest;
        let mut left = extent.bytes;
        for found in self.log.iter()? {
            let (end, row) = found?;
            let end = Revision(end.value());
            let surplus = last.revision.0 - forget.0 > keep.revisions || left > keep.bytes;
            if end == last.revision || !surplus {
                break;
            }
            forget = end;
            left -= row.value().len() as u64;
        }
        if forget > extent.oldest {
            self.log.retain_in(..=forget.0, |_, _| false)?;
            extent = Extent { oldest: forget, bytes: left };
        }
        self.put_extent(extent)?;
        Ok(extent)
    }

    /// Lets watches begin at `oldest` at the earliest.
    pub(super) fn forget(&mut self, oldest: Revision, head: Revision) -> Result<Extent, redb::Error> {
        let before = self.extent()?;
        let oldest = oldest.clamp(before.oldest, head);
        let mut bytes = before.bytes;
        let dropped = self.log.extract_from_if(..=oldest.0, |_, _| true)?;
        for row in dropped {
            bytes -= row?.1.value().len() as u64;
        }
        let extent = Extent { oldest, bytes };
        if extent != before {
            self.put_extent(extent)?;
        }
        Ok(extent)
    }

    fn put_extent(&mut self, extent: Extent) -> Result<(), redb::Error> {
        self.changed = true;
        let bytes = [extent.oldest.0.to_le_bytes(), extent.bytes.to_le_bytes()].concat();
        self.meta.insert(LOG_EXTENT, bytes.as_slice())?;
        Ok(())
    }
}

fn read_extent(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<Extent, redb::Error> {
    let Some(found) = meta.get(LOG_EXTENT)? else { return Ok(Extent::default()) };
    let bytes = found.value();
    match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(oldest), Some(size)) if bytes.len() == 16 => {
            Ok(Extent { oldest: Revision(u64::from_le_bytes(*oldest)), bytes: u64::from_le_bytes(*size) })
        }
        _ => Err(corrupt("the extent of the log")),
    }
}

fn corrupt(what: &'static str) -> redb::Error {
    redb::Error::Corrupted(format!("{what} cannot be read"))
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

    fn segment(&self, at: At) -> Result<Option<Bytes>, redb::Error> {
        Ok(bytes_of(self.segments.get(at)?))
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

    fn next_segment(&self, from: At) -> Result<Option<(At, Bytes)>, redb::Error> {
        let Some(found) = self.segments.range(from..)?.next() else { return Ok(None) };
        let (at, bytes) = found?;
        Ok(Some((at.value(), Bytes::copy_from_slice(bytes.value()))))
    }

    fn put_segment(&mut self, at: At, segment: Option<&[u8]>) -> Result<(), redb::Error> {
        self.changed = true;
        match segment {
            Some(segment) => drop(self.segments.insert(at, segment)?),
            None => drop(self.segments.remove(at)?),
        }
        Ok(())
    }

    fn garbage(&self, at: At) -> Result<Option<u64>, redb::Error> {
        Ok(self.garbage.get(at)?.map(|found| found.value()))
    }

    fn next_garbage(&self, from: At) -> Result<Option<(At, u64)>, redb::Error> {
        let Some(found) = self.garbage.range(from..)?.next() else { return Ok(None) };
        let (at, note) = found?;
        Ok(Some((at.value(), note.value())))
    }

    fn put_garbage(&mut self, at: At, note: Option<u64>) -> Result<(), redb::Error> {
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
}

impl DiskView {
    pub(super) fn open(database: &Database) -> Result<Self, redb::Error> {
        let transaction = database.begin_read()?;
        Ok(Self { view: transaction.open_table(VIEW)?, transaction })
    }

    pub(super) fn entry(&self, key: &Key) -> Result<Option<Entry>, redb::Error> {
        let Some(record) = self.record(key.as_str())? else { return Ok(None) };
        let Record { version, value, .. } = record;
        Ok(value.map(|value| Entry { key: key.clone(), value, version }))
    }

    /// What is in the view as of `revision`, which the caller knows it to be.
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
        let mut page = Page { revision, entries: Vec::new(), more: false };
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
            page.entries.push(Entry { key, value, version });
        }
        Ok(page)
    }

    /// The revision of the view.
    pub(super) fn revision(&self) -> Result<Revision, redb::Error> {
        let log = self.transaction.open_table(LOG)?;
        let last = log.last()?.map(|(revision, _)| Revision(revision.value()));
        let extent = read_extent(&self.transaction.open_table(META)?)?;
        Ok(last.unwrap_or(extent.oldest))
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

    fn segment(&self, at: At) -> Result<Option<Bytes>, redb::Error> {
        Ok(bytes_of(self.transaction.open_table(SEGMENTS)?.get(at)?))
    }

    fn record(&self, key: &str) -> Result<Option<Record>, redb::Error> {
        record_of(self.view.get(key.as_bytes())?)
    }
}

/// The revisions after `after`, at most `limit`, at least one.
pub(super) fn recall(file: &File, after: Revision, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
    let recalled = file.read(|database| {
        let transaction = database.begin_read()?;
        let oldest = read_extent(&transaction.open_table(META)?)?.oldest;
        if after < oldest {
            return Ok(Err(oldest));
        }
        let log = transaction.open_table(LOG)?;
        let mut batches = Vec::new();
        for found in log.range(after.0 + 1..)? {
            let (_, row) = found?;
            let group = decode_group(Bytes::copy_from_slice(row.value())).map_err(|_| corrupt("the log"))?;
            let new = group.into_iter().filter(|batch| batch.revision > after);
            batches.extend(new.take(limit - batches.len()));
            if batches.len() == limit {
                break;
            }
        }
        Ok(Ok(batches))
    })?;
    recalled.map_err(|oldest| StoreError::Compacted { oldest })
}

/// In front of each revision its number, then its writes.
fn encode_group(group: &[Applied]) -> Vec<u8> {
    let mut out = Vec::new();
    put_list(group, &mut out, |Applied { revision, writes }, out| {
        out.extend(revision.0.to_le_bytes());
        put_list(writes, out, |Write { key, value }, out| {
            put_text(key.as_str(), out);
            out.push(u8::from(value.is_some()));
            if let Some(value) = value {
                put_bytes(value, out);
            }
        });
    });
    out
}

fn decode_group(bytes: Bytes) -> Result<Vec<WatchBatch>, Malformed> {
    let mut input = Input(bytes);
    let group = input.list(12, usize::MAX, |input| {
        let revision = Revision(input.u64()?);
        let writes = input.list(3, usize::MAX, |input| {
            let key = input.key()?;
            let value = input.flag()?.then(|| input.bytes()).transpose()?;
            Ok(Write { key, value })
        })?;
        Ok(WatchBatch { revision, writes })
    })?;
    input.end()?;
    Ok(group)
}
