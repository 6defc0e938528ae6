//! The file: its tables, and what is read from and written to it. Everything here blocks.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use orch_base::files;
use orch_core::store::{Entry, Incarnation, Key, Page, Position, Revision, StoreError, WatchBatch, Write};
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    super::{
        checksum,
        engine::{Batch, Engine, LogBounds},
        error::{corrupt, newer_format, opening},
        open::prepare_file,
        reserve,
        status::{FileStatus, StoreFile},
    },
    batch::SqliteBatch,
    error,
    lock::DirLock,
    rows::{
        check_sum, entry_of, incarnation_of, key_of, number, position_in, record_columns, revision_of, signed,
    },
};
use crate::prefix;

/// Marks the file as one of ours: "orch" in ASCII.
const APPLICATION: i64 = 0x6f72_6368;

/// Migrations, from each format to the next. The format of a file is the number of migrations made.
const STEPS: [&str; 2] = [include_str!("schema-1.sql"), include_str!("schema-2.sql")];

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
        let mut writer = connect(path).map_err(failed)?;
        writer.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        let bounds = match find(&writer).map_err(failed)? {
            Found::Format(done) => {
                let steps = usize::try_from(done).ok().and_then(|done| STEPS.get(done..));
                let steps = steps.ok_or_else(|| newer_format(path, done, STEPS.len()))?;
                migrate(&mut writer, steps).map_err(failed)?;
                bounds_of(&writer).map_err(failed)?
            }
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
            let mut query = connection.prepare_cached(concat!(
                "SELECT ",
                record_columns!(),
                " FROM records WHERE key = ?"
            ))?;
            query.query_row([key.as_str()], entry_of).optional()
        })
    }

    fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
        const QUERY: &str = concat!(
            "SELECT ",
            record_columns!(),
            " FROM records WHERE key >= ?1 AND (?2 IS NULL OR key > ?2) AND (?3 IS NULL OR key < ?3) \
             ORDER BY key LIMIT ?4"
        );
        let (start, after) = match after.map(Key::as_str) {
            Some(after) if after >= prefix => (after, Some(after)),
            _ => (prefix, None),
        };
        let wanted = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        self.read(|connection| {
            // One snapshot for the revision and the records.
            let snapshot = connection.unchecked_transaction()?;
            let position = bounds_of(&snapshot)?.head;
            let mut query = snapshot.prepare_cached(QUERY)?;
            let found = query.query_map(params![start, after, prefix::end_of(prefix), wanted], entry_of)?;
            let mut entries = found.collect::<Result<Vec<_>, _>>()?;
            let more = entries.len() > limit;
            entries.truncate(limit);
            Ok(Page { position, entries, more })
        })
    }

    fn read_log(&self, after: Position, limit: usize) -> Result<Vec<WatchBatch>, StoreError> {
        self.read(|connection| {
            let snapshot = connection.unchecked_transaction()?;
            let bounds = bounds_of(&snapshot)?;
            let found = match after.revision <= bounds.head.revision {
                true => Some(position_of(&snapshot, bounds, after.revision)?),
                false => None,
            };
            if let Err(refusal) = bounds.check(after, found) {
                return Ok(Err(refusal));
            }
            let after = after.revision;
            let last = Revision(bounds.head.revision.0.min(after.0.saturating_add(limit as u64)));
            let mut batches: Vec<_> = (after.0 + 1..=last.0)
                .map(|revision| WatchBatch {
                    position: Position::new(Revision(revision), Incarnation(0)),
                    writes: Vec::new(),
                })
                .collect();
            let batch_of = |row: &Row<'_>| {
                Ok::<_, rusqlite::Error>(
                    usize::try_from(revision_of(row, 0)?.0 - after.0 - 1).unwrap_or(usize::MAX),
                )
            };
            let mut query = snapshot.prepare_cached(
                "SELECT revision, incarnation FROM commits WHERE revision > ? AND revision <= ?",
            )?;
            let mut rows = query.query(params![number(after), number(last)])?;
            while let Some(row) = rows.next()? {
                batches[batch_of(row)?].position.incarnation = incarnation_of(row, 1)?;
            }
            let mut query = snapshot.prepare_cached(
                "SELECT revision, key, value, checksum FROM log WHERE revision > ? AND revision <= ? \
                 ORDER BY revision, key",
            )?;
            let mut rows = query.query(params![number(after), number(last)])?;
            while let Some(row) = rows.next()? {
                let batch = &mut batches[batch_of(row)?];
                let value = row.get::<_, Option<Vec<u8>>>(2)?.map(Bytes::from);
                let key = key_of(row, 1)?;
                let sum = checksum::of_change(&key, batch.position, value.as_deref());
                check_sum(row, 3, sum, &key)?;
                batch.writes.push(Write { key, value });
            }
            Ok(Ok(batches))
        })?
    }

    fn find(&self, incarnation: Incarnation, since: Revision) -> Result<Option<Position>, StoreError> {
        self.read(|connection| {
            let snapshot = connection.unchecked_transaction()?;
            let LogBounds { oldest, .. } = bounds_of(&snapshot)?;
            let mut query =
                snapshot.prepare_cached("SELECT revision FROM commits WHERE incarnation = ? LIMIT 1")?;
            let found = query.query_row([signed(incarnation)], |row| revision_of(row, 0));
            Ok(match found.optional()? {
                Some(revision) => Ok(Some(Position::new(revision, incarnation))),
                None if since < oldest.revision => Err(StoreError::Compacted { oldest }),
                None => Ok(None),
            })
        })?
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
            let mut batch = SqliteBatch::prepare(&transaction, bounds)?;
            let reached = work(&mut batch)?;
            drop(batch);
            if reached != bounds {
                if reached.oldest.revision > bounds.oldest.revision {
                    for trim in
                        ["DELETE FROM log WHERE revision <= ?", "DELETE FROM commits WHERE revision <= ?"]
                    {
                        transaction.prepare_cached(trim)?.execute([number(reached.oldest.revision)])?;
                    }
                }
                // Another process that got past the lock would have decided on the same revisions.
                let mut meta = transaction.prepare_cached(
                    "UPDATE meta SET revision = ?1, incarnation = ?2, oldest = ?3, oldest_incarnation = ?4 \
                     WHERE revision = ?5 AND incarnation = ?6 AND oldest = ?7 AND oldest_incarnation = ?8",
                )?;
                let four = |LogBounds { head, oldest }: LogBounds| {
                    [head, oldest].map(|at| [number(at.revision), signed(at.incarnation)]).concat()
                };
                let changed =
                    meta.execute(rusqlite::params_from_iter([four(reached), four(bounds)].concat()))?;
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
            reserve::release_for(path, &failure);
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
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    migrate_in(&transaction, &STEPS)?;
    transaction.commit()
}

/// Brings a file of an earlier version up to date.
fn migrate(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    migrate_in(&transaction, steps)?;
    transaction.commit()
}

fn migrate_in(transaction: &rusqlite::Transaction<'_>, steps: &[&str]) -> rusqlite::Result<()> {
    steps.iter().try_for_each(|step| transaction.execute_batch(step))?;
    transaction.pragma_update(None, "user_version", i64::try_from(STEPS.len()).unwrap_or(i64::MAX))
}

fn bounds_of(connection: &Connection) -> rusqlite::Result<LogBounds> {
    let mut query =
        connection.prepare_cached("SELECT oldest, oldest_incarnation, revision, incarnation FROM meta")?;
    query.query_row([], |row| Ok(LogBounds { oldest: position_in(row, 0)?, head: position_in(row, 2)? }))
}

/// The position of a revision of the log with these bounds.
pub(super) fn position_of(
    connection: &Connection,
    bounds: LogBounds,
    revision: Revision,
) -> rusqlite::Result<Position> {
    if revision == bounds.oldest.revision {
        return Ok(bounds.oldest);
    }
    let mut query = connection.prepare_cached("SELECT incarnation FROM commits WHERE revision = ?")?;
    let found = query.query_row([number(revision)], |row| incarnation_of(row, 0)).optional()?;
    Ok(Position::new(revision, found.unwrap_or_default()))
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
