//! The file: its tables, and what is read from and written to it. Everything here blocks.

use std::{ops::Bound, path::Path};

use bytes::Bytes;
use orch_core::store::{Entry, Incarnation, Key, Page, Position, Revision, StoreError, WatchBatch, Write};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError};

use super::{
    super::{
        checksum,
        engine::{Batch, Engine, LogBounds},
        error::{Cause, backend, corrupt, newer_format},
        redb_file::{
            NAME, RedbFile,
            error::{below, reading},
        },
        status::{FileStatus, StoreFile},
    },
    codec, migrate,
};

/// The newest format that this version reads, and the one it writes. Format 1, without incarnations and
/// checksums, is brought up to it by [`migrate`].
pub(super) const FORMAT: u64 = 2;

/// Key to the revision and the incarnation that wrote it, the checksum, and the value.
pub(super) const RECORDS: TableDefinition<'_, &str, (u64, u64, u32, &[u8])> =
    TableDefinition::new("records-2");
/// Revision to its incarnation, the checksum, and its writes, see [`codec`]. Holds exactly the revisions
/// `oldest + 1 ..= revision`.
pub(super) const LOG: TableDefinition<'_, u64, (u64, u32, &[u8])> = TableDefinition::new("log-2");
/// The numbers below.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
pub(super) const META_INCARNATION: &str = "incarnation";
const META_OLDEST: &str = "oldest";
pub(super) const META_OLDEST_INCARNATION: &str = "oldest-incarnation";

/// Engine of [`RedbStore`](super::RedbStore): the tables in an open redb file.
#[derive(Debug)]
pub struct RedbEngine {
    file: RedbFile,
}

impl RedbEngine {
    /// Takes over a database that was just opened from `path`, new or not.
    pub(super) fn new(path: &Path, database: Database) -> Result<(Self, LogBounds), StoreError> {
        let writing =
            |source: redb::Error| backend(NAME, "opening", false, Cause::write(path, below(source)));
        let found = find_format(&database).map_err(|error| reading(path, error))?;
        if matches!(found, Found::Format(1)) {
            migrate::from_1(&database).map_err(writing)?;
        }
        let bounds = match found {
            Found::Format(1 | FORMAT) => read_bounds(&database).map_err(|error| reading(path, error))?,
            Found::Format(found) => return Err(newer_format(path, found, FORMAT)),
            Found::Foreign => return Err(corrupt(path, "another program's tables are in it")),
            Found::Nothing => create_tables(&database).map_err(writing)?,
        };
        Ok((Self { file: RedbFile::new(path, database) }, bounds))
    }
}

impl StoreFile for RedbEngine {
    fn status(&self) -> &FileStatus {
        self.file.status()
    }

    fn release(&self) {
        self.file.release();
    }
}

impl Engine for RedbEngine {
    type Error = redb::Error;

    const NAME: &'static str = NAME;

    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.file.read(|database| {
            let records = database.begin_read()?.open_table(RECORDS)?;
            let Some(found) = records.get(key.as_str())? else { return Ok(None) };
            Ok(Some(entry_of(key.as_str(), found.value())?))
        })
    }

    fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.file.read(|database| {
            let transaction = database.begin_read()?;
            let records = transaction.open_table(RECORDS)?;
            let meta = transaction.open_table(META)?;
            let position = bounds_of(&meta)?.head;
            let start = match after {
                Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
                _ => Bound::Included(prefix),
            };
            let mut page = Page { position, entries: Vec::new(), more: false };
            for found in records.range::<&str>((start, Bound::Unbounded))? {
                let (key, record) = found?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                if page.entries.len() == limit {
                    page.more = true;
                    break;
                }
                page.entries.push(entry_of(key.value(), record.value())?);
            }
            Ok(page)
        })
    }

    fn read_log(&self, after: Position, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
        self.file.read(|database| {
            let transaction = database.begin_read()?;
            let bounds = bounds_of(&transaction.open_table(META)?)?;
            let log = transaction.open_table(LOG)?;
            if let Err(refusal) = bounds.check(after, position_of(&log, bounds, after.revision)?) {
                return Ok(Err(refusal));
            }
            let mut batches = Vec::new();
            for found in log.range(after.revision.0 + 1..)?.take(limit) {
                let (revision, entry) = found?;
                let (incarnation, sum, writes) = entry.value();
                let position = Position::new(Revision(revision.value()), Incarnation(incarnation));
                let writes = match checksum::of_entry(position, writes) == sum {
                    true => codec::decode(writes).map_err(|_| damaged_entry(position))?,
                    false => return Err(damaged_entry(position)),
                };
                batches.push(WatchBatch { position, writes });
            }
            Ok(Ok(batches))
        })?
    }

    fn find(&self, incarnation: Incarnation, since: Revision) -> Result<Option<Position>, StoreError> {
        self.file.read(|database| {
            let transaction = database.begin_read()?;
            let LogBounds { oldest, .. } = bounds_of(&transaction.open_table(META)?)?;
            for found in transaction.open_table(LOG)?.iter()? {
                let (revision, entry) = found?;
                if entry.value().0 == incarnation.0 {
                    return Ok(Ok(Some(Position::new(Revision(revision.value()), incarnation))));
                }
            }
            Ok(if since < oldest.revision { Err(StoreError::Compacted { oldest }) } else { Ok(None) })
        })?
    }

    fn write(
        &self,
        bounds: LogBounds,
        synced: bool,
        work: impl FnOnce(&mut dyn Batch<Error = redb::Error>) -> Result<LogBounds, redb::Error>,
    ) -> Result<LogBounds, StoreError> {
        let durability = if synced { redb::Durability::Immediate } else { redb::Durability::None };
        self.file.write("committing", |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(durability).map_err(redb::Error::from)?;
            let (records, log) = (transaction.open_table(RECORDS)?, transaction.open_table(LOG)?);
            let mut batch = RedbBatch { records, log, bounds };
            let reached = work(&mut batch)?;
            if reached == bounds {
                drop(batch);
                transaction.abort()?;
                return Ok(reached);
            }
            if reached.oldest.revision > bounds.oldest.revision {
                batch.log.retain_in(..=reached.oldest.revision.0, |_, _| false)?;
            }
            let mut meta = transaction.open_table(META)?;
            put_bounds(&mut meta, reached)?;
            drop((batch, meta));
            transaction.commit()?;
            Ok(reached)
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file.write("syncing", |database| Ok(database.begin_write()?.commit()?))
    }
}

/// The tables within one transaction that writes.
struct RedbBatch<'txn> {
    records: Table<'txn, &'static str, (u64, u64, u32, &'static [u8])>,
    log: Table<'txn, u64, (u64, u32, &'static [u8])>,
    /// Those before the transaction.
    bounds: LogBounds,
}

impl Batch for RedbBatch<'_> {
    type Error = redb::Error;

    fn version(&mut self, key: &Key) -> Result<Option<Position>, redb::Error> {
        let record = self.records.get(key.as_str())?;
        Ok(record.map(|record| Position::new(Revision(record.value().0), Incarnation(record.value().1))))
    }

    fn put(&mut self, key: &Key, value: &[u8], version: Position) -> Result<(), redb::Error> {
        self.records.insert(key.as_str(), record(key.as_str(), version, value))?;
        Ok(())
    }

    fn delete(&mut self, key: &Key) -> Result<bool, redb::Error> {
        Ok(self.records.remove(key.as_str())?.is_some())
    }

    fn append_log(&mut self, position: Position, writes: &[Write]) -> Result<(), redb::Error> {
        let writes = codec::encode(writes);
        self.log.insert(position.revision.0, entry(position, &writes))?;
        Ok(())
    }

    fn position(&mut self, revision: Revision) -> Result<Position, redb::Error> {
        let found = position_of(&self.log, self.bounds, revision)?;
        found.ok_or_else(|| redb::Error::Corrupted(format!("revision {revision} is missing in the log")))
    }
}

/// Value of [`RECORDS`].
pub(super) fn record<'a>(key: &str, version: Position, value: &'a [u8]) -> (u64, u64, u32, &'a [u8]) {
    let sum = checksum::of_record(key, version, value);
    (version.revision.0, version.incarnation.0, sum, value)
}

/// Value of [`LOG`].
pub(super) fn entry(position: Position, writes: &[u8]) -> (u64, u32, &[u8]) {
    (position.incarnation.0, checksum::of_entry(position, writes), writes)
}

fn entry_of(
    key: &str,
    (revision, incarnation, sum, value): (u64, u64, u32, &[u8]),
) -> Result<Entry, redb::Error> {
    let version = Position::new(Revision(revision), Incarnation(incarnation));
    if checksum::of_record(key, version, value) != sum {
        let damage = format!("the record {key:?} does not have the content that was written");
        return Err(redb::Error::Corrupted(damage));
    }
    let key = Key::new(key).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
    Ok(Entry { key, value: Bytes::copy_from_slice(value), version })
}

fn damaged_entry(position: Position) -> redb::Error {
    redb::Error::Corrupted(format!(
        "revision {position} of the log does not have the content that was written"
    ))
}

/// The position that the log has at a revision.
fn position_of(
    log: &impl ReadableTable<u64, (u64, u32, &'static [u8])>,
    bounds: LogBounds,
    revision: Revision,
) -> Result<Option<Position>, redb::Error> {
    if revision == bounds.oldest.revision {
        return Ok(Some(bounds.oldest));
    }
    let found = log.get(revision.0)?;
    Ok(found.map(|entry| Position::new(revision, Incarnation(entry.value().0))))
}

enum Found {
    Nothing,
    Foreign,
    Format(u64),
}

fn find_format(database: &Database) -> Result<Found, redb::Error> {
    let transaction = database.begin_read()?;
    match transaction.open_table(META) {
        Ok(meta) => Ok(Found::Format(number(&meta, META_FORMAT)?)),
        Err(TableError::TableDoesNotExist(_)) if transaction.list_tables()?.next().is_none() => {
            Ok(Found::Nothing)
        }
        Err(TableError::Storage(error)) => Err(error.into()),
        Err(_) => Ok(Found::Foreign),
    }
}

fn read_bounds(database: &Database) -> Result<LogBounds, redb::Error> {
    bounds_of(&database.begin_read()?.open_table(META)?)
}

fn bounds_of(meta: &impl ReadableTable<&'static str, u64>) -> Result<LogBounds, redb::Error> {
    let position = |revision, incarnation| {
        let (revision, incarnation) = (number(meta, revision)?, number(meta, incarnation)?);
        Ok::<_, redb::Error>(Position::new(Revision(revision), Incarnation(incarnation)))
    };
    let oldest = position(META_OLDEST, META_OLDEST_INCARNATION)?;
    Ok(LogBounds { oldest, head: position(META_REVISION, META_INCARNATION)? })
}

fn put_bounds(meta: &mut Table<'_, &'static str, u64>, bounds: LogBounds) -> Result<(), redb::Error> {
    let LogBounds { oldest, head } = bounds;
    for (name, number) in [
        (META_REVISION, head.revision.0),
        (META_INCARNATION, head.incarnation.0),
        (META_OLDEST, oldest.revision.0),
        (META_OLDEST_INCARNATION, oldest.incarnation.0),
    ] {
        meta.insert(name, number)?;
    }
    Ok(())
}

/// Makes the tables of an empty store.
pub(super) fn create_tables(database: &Database) -> Result<LogBounds, redb::Error> {
    let transaction = database.begin_write()?;
    {
        transaction.open_table(RECORDS)?;
        transaction.open_table(LOG)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT)?;
        put_bounds(&mut meta, LogBounds::EMPTY)?;
    }
    transaction.commit()?;
    Ok(LogBounds::EMPTY)
}

fn number(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, redb::Error> {
    let found = meta.get(name)?.ok_or_else(|| redb::Error::Corrupted(format!("{name:?} is missing")))?;
    Ok(found.value())
}
