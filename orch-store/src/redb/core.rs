//! The file: its tables, and what is read from and written to it. Everything here blocks.

use std::{collections::BTreeMap, ops::Bound, path::Path};

use bytes::Bytes;
use orch_core::store::{Entry, Key, Page, Revision, StoreError, Txn, WatchBatch, Write};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, TableError};

use super::codec;
use crate::{
    commit_group::TxnOutcome,
    file::{
        File,
        error::{self, Cause},
    },
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

/// The tables in an open file.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) file: File,
}

/// First and last revision of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogBounds {
    /// The earliest start of a watch.
    pub(super) oldest: Revision,
    /// The newest revision.
    pub(super) head: Revision,
}

impl Core {
    /// Takes over a database that was just opened from `path`, new or not.
    pub(super) fn new(path: &Path, database: Database) -> Result<(Self, LogBounds), StoreError> {
        let bounds = match read_bounds(&database).map_err(|error| error::reading(path, error))? {
            Found::LogBounds(bounds) => bounds,
            Found::Format(found) => return Err(error::newer_format(path, found, FORMAT)),
            Found::Foreign => return Err(error::corrupt(path, "another program's tables are in it")),
            Found::Nothing => create_tables(&database).map_err(|source| {
                error::backend("opening", false, Cause::Write { path: path.into(), source })
            })?,
        };
        Ok((Self { file: File::new(path, database) }, bounds))
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.file.read(|database| {
            let records = database.begin_read()?.open_table(RECORDS)?;
            let Some(found) = records.get(key.as_str())? else { return Ok(None) };
            let (version, value) = found.value();
            let value = Bytes::copy_from_slice(value);
            Ok(Some(Entry { key: key.clone(), value, version: Revision(version) }))
        })
    }

    pub(super) fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
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

    /// The revisions after `after`, at most `limit`.
    pub(super) fn read_revisions(
        &self,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<WatchBatch>, StoreError> {
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
                let writes = codec::decode(writes.value()).ok_or_else(|| {
                    redb::Error::Corrupted(format!("revision {revision} of the log cannot be read"))
                })?;
                batches.push(WatchBatch { revision, writes });
            }
            Ok(Ok(batches))
        })?;
        found.map_err(|oldest| StoreError::Compacted { oldest })
    }

    /// Decides the transactions one after the other, each on what those before it left, and commits all that
    /// were applied together. Trims the log to begin at `oldest` at the earliest.
    pub(super) fn apply<'a>(
        &self,
        bounds: LogBounds,
        group: impl Iterator<Item = &'a mut Txn>,
        oldest: impl FnOnce(Revision) -> Revision,
        durability: redb::Durability,
    ) -> Result<(Vec<TxnOutcome>, LogBounds), StoreError> {
        self.file.write("committing", |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(durability).map_err(redb::Error::from)?;
            let mut records = transaction.open_table(RECORDS)?;
            let mut log = transaction.open_table(LOG)?;
            let mut head = bounds.head;
            let mut outcomes = Vec::new();
            for txn in group {
                let outcome = apply_one(&mut records, head.next(), std::mem::take(txn))?;
                if let TxnOutcome::Applied(writes) = &outcome {
                    head = head.next();
                    log.insert(head.0, codec::encode(writes).as_slice())?;
                }
                outcomes.push(outcome);
            }
            let reached = LogBounds { oldest: oldest(head).clamp(bounds.oldest, head), head };
            if reached == bounds {
                drop((records, log));
                transaction.abort()?;
                return Ok((outcomes, reached));
            }
            if reached.oldest > bounds.oldest {
                log.retain_in(..=reached.oldest.0, |_, _| false)?;
            }
            let mut meta = transaction.open_table(META)?;
            meta.insert(META_REVISION, reached.head.0)?;
            meta.insert(META_OLDEST, reached.oldest.0)?;
            drop((records, log, meta));
            transaction.commit()?;
            Ok((outcomes, reached))
        })
    }

    /// Makes everything durable that was committed without being.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file.write("syncing", |database| Ok(database.begin_write()?.commit()?))
    }
}

fn apply_one(
    records: &mut Table<'_, &str, (u64, &[u8])>,
    revision: Revision,
    txn: Txn,
) -> Result<TxnOutcome, redb::Error> {
    for guard in &txn.guards {
        let stored = records.get(guard.key().as_str())?.map(|record| Revision(record.value().0));
        if !guard.holds(stored) {
            return Ok(TxnOutcome::Conflict(guard.key().clone()));
        }
    }
    let net: BTreeMap<_, _> = txn.into_net_writes();
    let mut changes = Vec::with_capacity(net.len());
    for (key, value) in net {
        let changed = match &value {
            Some(value) => {
                records.insert(key.as_str(), (revision.0, &**value))?;
                true
            }
            None => records.remove(key.as_str())?.is_some(),
        };
        if changed {
            changes.push(Write { key, value });
        }
    }
    Ok(TxnOutcome::Applied(changes))
}

enum Found {
    Nothing,
    Foreign,
    Format(u64),
    LogBounds(LogBounds),
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
        FORMAT => Ok(Found::LogBounds(LogBounds {
            oldest: Revision(number(&meta, META_OLDEST)?),
            head: Revision(number(&meta, META_REVISION)?),
        })),
        other => Ok(Found::Format(other)),
    }
}

fn create_tables(database: &Database) -> Result<LogBounds, redb::Error> {
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
    Ok(LogBounds { oldest: Revision::ZERO, head: Revision::ZERO })
}

fn number(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, redb::Error> {
    let found = meta.get(name)?.ok_or_else(|| redb::Error::Corrupted(format!("{name:?} is missing")))?;
    Ok(found.value())
}
