//! The file: its tables, and what is read from and written to it. Everything here blocks.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use orch_base::files;
use orch_core::store::{Entry, Key, Page, Revision, StoreError, WatchBatch, Write};
use parking_lot::{Condvar, Mutex};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params, types::Type};

use super::{
    super::{
        engine::{Batch, Engine, LogBounds},
        error::{corrupt, newer_format, opening},
        open::prepare_file,
        status::{FileStatus, StoreFile},
    },
    error,
    lock::DirLock,
};
use crate::prefix;

/// Marks the file as one of ours: "orch" in ASCII.
const APPLICATION: i64 = 0x6f72_6368;

/// The newest format that this version reads, and the one it writes.
const FORMAT: i64 = 1;

const SCHEMA: &str = include_str!("schema.sql");

/// Statements that a connection keeps prepared: all there are.
const PREPARED: usize = 16;

/// Engine of [`SqliteStore`](super::SqliteStore): an open file. The connections are dropped when the store
/// closes or fails, which releases the file.
pub struct SqliteEngine {
    status: FileStatus,
    writer: Mutex<Option<Connection>>,
    readers: Readers,
    lock: Mutex<Option<DirLock>>,
}

impl SqliteEngine {
    /// Makes the file at `path`, with the tables of an empty store, for the holder of the lock. It gets its
    /// name when it is complete, so that an empty file of that name is never a new store.
    pub(super) fn make(path: &Path) -> Result<(), StoreError> {
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        if beside("-wal").exists() {
            return Err(corrupt(path, "it is missing, while its orch.sqlite-wal is there"));
        }
        let staged = beside(".new");
        let prepared = [&staged, &beside(".new-journal")]
            .into_iter()
            // Left by a crash.
            .try_for_each(|left| match fs::remove_file(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            })
            .and_then(|()| prepare_file(&staged));
        prepared.map_err(|error| opening(error::NAME, path, error))?;
        connect(&staged)
            .and_then(|mut connection| create(&mut connection))
            .map_err(|error| error::database(path, error))?;
        let named = File::open(&staged)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&staged, path))
            .and_then(|()| files::sync_dir(files::directory_of(path)));
        named.map_err(|error| opening(error::NAME, path, error))
    }

    /// Opens the file at `path`, which must exist, for the holder of `lock`.
    pub(super) fn open(path: &Path, lock: DirLock, readers: usize) -> Result<(Self, LogBounds), StoreError> {
        let failed = |error| error::database(path, error);
        let writer = connect(path).map_err(failed)?;
        writer.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        let bounds = match find(&writer).map_err(failed)? {
            Found::Format(FORMAT) => bounds_of(&writer).map_err(failed)?,
            Found::Format(other) => return Err(newer_format(path, other, FORMAT)),
            Found::Foreign => return Err(corrupt(path, "another program's tables are in it")),
            Found::Nothing => return Err(corrupt(path, "its tables are missing")),
        };
        let free: Result<Vec<_>, _> = (0..readers).map(|_| connect(path)).collect();
        let engine = Self {
            status: FileStatus::new(error::NAME, path),
            writer: Mutex::new(Some(writer)),
            readers: Readers { state: Mutex::new(Some(free.map_err(failed)?)), freed: Condvar::new() },
            lock: Mutex::new(Some(lock)),
        };
        Ok((engine, bounds))
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let reader = self.readers.take().ok_or_else(|| self.status.closed_error())?;
        read(reader.connection()).map_err(|error| error::reading(self.status.path(), error))
    }
}

impl fmt::Debug for SqliteEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteEngine").field("status", &self.status).finish_non_exhaustive()
    }
}

impl StoreFile for SqliteEngine {
    fn status(&self) -> &FileStatus {
        &self.status
    }

    fn release(&self) {
        self.readers.close();
        // SQLite moves what is in its log into the file when the last connection goes.
        self.writer.lock().take();
        self.lock.lock().take();
    }
}

impl Engine for SqliteEngine {
    type Error = rusqlite::Error;

    const NAME: &'static str = error::NAME;

    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.read(|connection| {
            let mut query =
                connection.prepare_cached("SELECT key, value, version FROM records WHERE key = ?")?;
            query.query_row([key.as_str()], entry_of).optional()
        })
    }

    fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        const QUERY: &str = "SELECT key, value, version FROM records \
            WHERE key >= ?1 AND (?2 IS NULL OR key > ?2) AND (?3 IS NULL OR key < ?3) ORDER BY key LIMIT ?4";
        let (start, after) = match after.map(Key::as_str) {
            Some(after) if after >= prefix => (after, Some(after)),
            _ => (prefix, None),
        };
        let wanted = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        self.read(|connection| {
            // One snapshot for the revision and the records.
            let snapshot = connection.unchecked_transaction()?;
            let revision = bounds_of(&snapshot)?.head;
            let mut query = snapshot.prepare_cached(QUERY)?;
            let found = query.query_map(params![start, after, prefix::end_of(prefix), wanted], entry_of)?;
            let mut entries = found.collect::<Result<Vec<_>, _>>()?;
            let more = entries.len() > limit;
            entries.truncate(limit);
            Ok(Page { revision, entries, more })
        })
    }

    fn read_log(&self, after: Revision, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
        let found = self.read(|connection| {
            let snapshot = connection.unchecked_transaction()?;
            let LogBounds { oldest, head } = bounds_of(&snapshot)?;
            if after < oldest {
                return Ok(Err(oldest));
            }
            let last = Revision(head.0.min(after.0.saturating_add(limit as u64)));
            let mut batches: Vec<_> = (after.0 + 1..=last.0)
                .map(|revision| WatchBatch { revision: Revision(revision), writes: Vec::new() })
                .collect();
            let mut query = snapshot.prepare_cached(
                "SELECT revision, key, value FROM log WHERE revision > ? AND revision <= ? ORDER BY revision, key",
            )?;
            let mut rows = query.query(params![number(after), number(last)])?;
            while let Some(row) = rows.next()? {
                let index = usize::try_from(revision_of(row, 0)?.0 - after.0 - 1).unwrap_or(usize::MAX);
                let value = row.get::<_, Option<Vec<u8>>>(2)?.map(Bytes::from);
                batches[index].writes.push(Write { key: key_of(row, 1)?, value });
            }
            Ok(Ok(batches))
        })?;
        found.map_err(|oldest| StoreError::Compacted { oldest })
    }

    /// SQLite syncs each commit.
    fn write(
        &self,
        bounds: LogBounds,
        _synced: bool,
        work: impl FnOnce(&mut dyn Batch<Error = rusqlite::Error>) -> rusqlite::Result<LogBounds>,
    ) -> Result<LogBounds, StoreError> {
        let write = |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let mut batch = SqliteBatch::prepare(&transaction)?;
            let reached = work(&mut batch)?;
            drop(batch);
            if reached != bounds {
                if reached.oldest > bounds.oldest {
                    let mut trim = transaction.prepare_cached("DELETE FROM log WHERE revision <= ?")?;
                    trim.execute([number(reached.oldest)])?;
                }
                // Another process that got past the lock would have decided on the same revisions.
                let mut meta = transaction.prepare_cached(
                    "UPDATE meta SET revision = ?, oldest = ? WHERE revision = ? AND oldest = ?",
                )?;
                let (to, from) = (reached, bounds);
                let changed = meta.execute([to.head, to.oldest, from.head, from.oldest].map(number))?;
                if changed != 1 {
                    return Err(rusqlite::Error::StatementChangedRows(changed));
                }
            }
            transaction.commit()?;
            Ok(reached)
        };
        let (result, rolled_back) = {
            let mut writer = self.writer.lock();
            let connection = writer.as_mut().ok_or_else(|| self.status.closed_error())?;
            (write(connection), connection.is_autocommit())
        };
        result.map_err(|source| {
            let path = self.status.path();
            // SQLite leaves a transaction open that it cannot go on with because of a lock, also in COMMIT.
            if error::is_held(&source) && rolled_back {
                return error::held(path, "committing", source);
            }
            let failure = match source {
                rusqlite::Error::StatementChangedRows(_) => error::overtaken(path),
                source => self.status.write_error("committing", error::below(source)),
            };
            self.fail(failure.clone());
            failure
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Connections that are not in use; `None` once the store is closed.
struct Readers {
    state: Mutex<Option<Vec<Connection>>>,
    freed: Condvar,
}

/// A connection on loan.
struct Reader<'a> {
    connection: Option<Connection>,
    from: &'a Readers,
}

impl Readers {
    fn take(&self) -> Option<Reader<'_>> {
        let mut state = self.state.lock();
        self.freed.wait_while(&mut state, |state| state.as_ref().is_some_and(Vec::is_empty));
        Some(Reader { connection: state.as_mut()?.pop(), from: self })
    }

    fn close(&self) {
        self.state.lock().take();
        self.freed.notify_all();
    }
}

impl Reader<'_> {
    fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("a reader has its connection until it is dropped")
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if let (Some(free), Some(connection)) = (self.from.state.lock().as_mut(), self.connection.take()) {
            free.push(connection);
            self.from.freed.notify_one();
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    use rusqlite::OpenFlags;
    // No SQLITE_OPEN_URI: a path is a path. No SQLITE_OPEN_CREATE: the file was made before, for its owner
    // alone.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // People who look into the file may hold it for a moment.
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // On macOS a sync that is not "full" may leave what it should have written in the disk's cache.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    Ok(connection)
}

enum Found {
    Nothing,
    Foreign,
    Format(i64),
}

fn find(connection: &Connection) -> rusqlite::Result<Found> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (pragma("application_id")?, tables) {
        (APPLICATION, _) => Found::Format(pragma("user_version")?),
        (0, 0) => Found::Nothing,
        _ => Found::Foreign,
    })
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()
}

fn bounds_of(connection: &Connection) -> rusqlite::Result<LogBounds> {
    let mut query = connection.prepare_cached("SELECT oldest, revision FROM meta")?;
    query.query_row([], |row| Ok(LogBounds { oldest: revision_of(row, 0)?, head: revision_of(row, 1)? }))
}

/// Prepared statements of one transaction that writes.
struct SqliteBatch<'a> {
    version: CachedStatement<'a>,
    put: CachedStatement<'a>,
    delete: CachedStatement<'a>,
    log: CachedStatement<'a>,
}

impl<'a> SqliteBatch<'a> {
    fn prepare(connection: &'a Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            version: connection.prepare_cached("SELECT version FROM records WHERE key = ?")?,
            put: connection.prepare_cached(
                "INSERT INTO records (key, value, version) VALUES (?, ?, ?) \
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version",
            )?,
            delete: connection.prepare_cached("DELETE FROM records WHERE key = ?")?,
            log: connection.prepare_cached("INSERT INTO log (revision, key, value) VALUES (?, ?, ?)")?,
        })
    }
}

impl Batch for SqliteBatch<'_> {
    type Error = rusqlite::Error;

    fn version(&mut self, key: &Key) -> rusqlite::Result<Option<Revision>> {
        self.version.query_row([key.as_str()], |row| revision_of(row, 0)).optional()
    }

    fn put(&mut self, key: &Key, value: &[u8], version: Revision) -> rusqlite::Result<()> {
        self.put.execute(params![key.as_str(), value, number(version)])?;
        Ok(())
    }

    fn delete(&mut self, key: &Key) -> rusqlite::Result<bool> {
        Ok(self.delete.execute([key.as_str()])? > 0)
    }

    fn append_log(&mut self, revision: Revision, writes: &[Write]) -> rusqlite::Result<()> {
        for Write { key, value } in writes {
            self.log.execute(params![number(revision), key.as_str(), value.as_deref()])?;
        }
        Ok(())
    }
}

/// As SQLite counts.
fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn revision_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map(Revision).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

fn key_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Key> {
    let text = row.get_ref(column)?.as_str()?;
    Key::new(text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

fn entry_of(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry { key: key_of(row, 0)?, value: row.get::<_, Vec<u8>>(1)?.into(), version: revision_of(row, 2)? })
}

#[cfg(test)]
impl SqliteEngine {
    /// The disk is full once the file has this many pages.
    pub(super) fn limit_pages(&self, pages: i64) {
        let writer = self.writer.lock();
        writer.as_ref().unwrap().pragma_update(None, "max_page_count", pages).unwrap();
    }

    /// Locks of others are waited for this long.
    pub(super) fn limit_wait(&self, wait: std::time::Duration) {
        self.writer.lock().as_ref().unwrap().busy_timeout(wait).unwrap();
    }
}
