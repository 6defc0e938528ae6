//! The file: its tables, and what is read from and written to it. Everything here blocks.

use std::{ops::Bound, path::Path};

use bytes::Bytes;
use orch_core::store::{Entry, Key, Page, Revision, StoreError, WatchBatch, Write};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError};

use super::{
    super::{
        engine::{Batch, Engine, LogBounds},
        error::{Cause, backend, corrupt, newer_format},
        redb_file::{
            NAME, RedbFile,
            error::{below, reading},
        },
        status::{FileStatus, StoreFile},
    },
    codec,
};

/// The newest format that this version reads, and the one it writes.
const FORMAT: u64 = 1;

/// Key to the revision that wrote it and its value.
const RECORDS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("records");
/// Revision to its writes, see [`codec`]. Holds exactly the revisions `oldest + 1 ..= revision`.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// The three numbers below.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
const META_OLDEST: &str = "oldest";

/// Engine of [`RedbStore`](super::RedbStore): the tables in an open redb file.
#[derive(Debug)]
pub struct RedbEngine {
    file: RedbFile,
}

impl RedbEngine {
    /// Takes over a database that was just opened from `path`, new or not.
    pub(super) fn new(path: &Path, database: Database) -> Result<(Self, LogBounds), StoreError> {
        let bounds = match read_bounds(&database).map_err(|error| reading(path, error))? {
            Found::Bounds(bounds) => bounds,
            Found::Format(found) => return Err(newer_format(path, found, FORMAT)),
            Found::Foreign => return Err(corrupt(path, "another program's tables are in it")),
            Found::Nothing => create_tables(&database)
                .map_err(|source| backend(NAME, "opening", false, Cause::write(path, below(source))))?,
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
            let (version, value) = found.value();
            let value = Bytes::copy_from_slice(value);
            Ok(Some(Entry { key: key.clone(), value, version: Revision(version) }))
        })
    }

    fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        self.file.read(|database| {
            let transaction = database.begin_read()?;
            let records = transaction.open_table(RECORDS)?;
            let meta = transaction.open_table(META)?;
            let revision = Revision(number(&meta, META_REVISION)?);
            let start = match after {
                Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
                _ => Bound::Included(prefix),
            };
            let mut page = Page { revision, entries: Vec::new(), more: false };
            for found in records.range::<&str>((start, Bound::Unbounded))? {
                let (key, record) = found?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                if page.entries.len() == limit {
                    page.more = true;
                    break;
                }
                let (version, value) = record.value();
                page.entries.push(Entry {
                    key: Key::new(key.value()).map_err(|error| redb::Error::Corrupted(error.to_string()))?,
                    value: Bytes::copy_from_slice(value),
                    version: Revision(version),
                });
            }
            Ok(page)
        })
    }

    fn read_log(&self, after: Revision, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
        let found = self.file.read(|database| {
            let transaction = database.begin_read()?;
            let oldest = Revision(number(&transaction.open_table(META)?, META_OLDEST)?);
            if after < oldest {
                return Ok(Err(oldest));
            }
            let log = transaction.open_table(LOG)?;
            let mut batches = Vec::new();
            for found in log.range(after.0 + 1..)?.take(limit) {
                let (revision, writes) = found?;
                let revision = Revision(revision.value());
                let writes = codec::decode(writes.value()).map_err(|_| {
                    redb::Error::Corrupted(format!("revision {revision} of the log cannot be read"))
                })?;
                batches.push(WatchBatch { revision, writes });
            }
            Ok(Ok(batches))
        })?;
        found.map_err(|oldest| StoreError::Compacted { oldest })
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
            let mut batch = RedbBatch { records, log };
            let reached = work(&mut batch)?;
            if reached == bounds {
                drop(batch);
                transaction.abort()?;
                return Ok(reached);
            }
            if reached.oldest > bounds.oldest {
                batch.log.retain_in(..=reached.oldest.0, |_, _| false)?;
            }
            let mut meta = transaction.open_table(META)?;
            meta.insert(META_REVISION, reached.head.0)?;
            meta.insert(META_OLDEST, reached.oldest.0)?;
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
    records: Table<'txn, &'static str, (u64, &'static [u8])>,
    log: Table<'txn, u64, &'static [u8]>,
}

impl Batch for RedbBatch<'_> {
    type Error = redb::Error;

    fn version(&mut self, key: &Key) -> Result<Option<Revision>, redb::Error> {
        Ok(self.records.get(key.as_str())?.map(|record| Revision(record.value().0)))
    }

    fn put(&mut self, key: &Key, value: &[u8], version: Revision) -> Result<(), redb::Error> {
        self.records.insert(key.as_str(), (version.0, value))?;
        Ok(())
    }

    fn delete(&mut self, key: &Key) -> Result<bool, redb::Error> {
        Ok(self.records.remove(key.as_str())?.is_some())
    }

    fn append_log(&mut self, revision: Revision, writes: &[Write]) -> Result<(), redb::Error> {
        self.log.insert(revision.0, codec::encode(writes).as_slice())?;
        Ok(())
    }
}

enum Found {
    Nothing,
    Foreign,
    Format(u64),
    Bounds(LogBounds),
}

fn read_bounds(database: &Database) -> Result<Found, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) if transaction.list_tables()?.next().is_none() => {
            return Ok(Found::Nothing);
        }
        Err(TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Ok(Found::Foreign),
    };
    match number(&meta, META_FORMAT)? {
        FORMAT => Ok(Found::Bounds(LogBounds {
            oldest: Revision(number(&meta, META_OLDEST)?),
            head: Revision(number(&meta, META_REVISION)?),
        })),
        other => Ok(Found::Format(other)),
    }
}

/// Makes the tables of an empty store.
pub(super) fn create_tables(database: &Database) -> Result<LogBounds, redb::Error> {
    let transaction = database.begin_write()?;
    {
        transaction.open_table(RECORDS)?;
        transaction.open_table(LOG)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT)?;
        meta.insert(META_REVISION, 0)?;
        meta.insert(META_OLDEST, 0)?;
    }
    transaction.commit()?;
    Ok(LogBounds::EMPTY)
}

fn number(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, redb::Error> {
    let found = meta.get(name)?.ok_or_else(|| redb::Error::Corrupted(format!("{name:?} is missing")))?;
    Ok(found.value())
}
