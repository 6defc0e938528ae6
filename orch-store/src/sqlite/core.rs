//! The file: its tables, and what is read from and written to it. Everything here blocks.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::Bytes;
use orch_core::store::{Entry, Key, Page, Revision, StoreError, Txn, WatchBatch, Write};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params, types::Type};

use super::error::{self, Cause};
use crate::{commit_group::TxnOutcome, prefix};

/// Marks the file as one of ours: "orch" in ASCII.
const APPLICATION: i64 = 0x6f72_6368;

/// The newest format that this version reads, and the one it writes.
const FORMAT: i64 = 1;

const SCHEMA: &str = include_str!("schema.sql");

/// Statements that a connection keeps prepared: all there are.
const PREPARED: usize = 16;

/// An open file. The connections are dropped when the store closes or fails, which lets go of the file.
pub(super) struct Core {
    path: PathBuf,
    writer: Mutex<Option<Connection>>,
    readers: Readers,
    /// Locked for as long as this is there.
    lock: Mutex<Option<File>>,
    failure: OnceLock<StoreError>,
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
    /// Opens the file at `path`, which must exist (empty when it is new), for the holder of `lock`.
    pub(super) fn open(path: &Path, lock: File, readers: usize) -> Result<(Self, LogBounds), StoreError> {
        let failed = |error| error::database(path, error);
        let mut writer = connect(path).map_err(failed)?;
        writer.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        let bounds = match find(&writer).map_err(failed)? {
            Found::Format(FORMAT) => bounds_of(&writer).map_err(failed)?,
            Found::Format(other) => return Err(error::newer_format(path, other, FORMAT)),
            Found::Foreign => return Err(error::corrupt(path, "another program's tables are in it")),
            Found::Nothing => {
                create(&mut writer).map_err(failed)?;
                LogBounds { oldest: Revision::ZERO, head: Revision::ZERO }
            }
        };
        let free: Result<Vec<_>, _> = (0..readers).map(|_| connect(path)).collect();
        let core = Self {
            path: path.into(),
            writer: Mutex::new(Some(writer)),
            readers: Readers { state: Mutex::new(Some(free.map_err(failed)?)), freed: Condvar::new() },
            lock: Mutex::new(Some(lock)),
            failure: OnceLock::new(),
        };
        Ok((core, bounds))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.read(|connection| {
            let mut query =
                connection.prepare_cached("SELECT key, value, version FROM records WHERE key = ?")?;
            query.query_row([key.as_str()], entry_of).optional()
        })
    }

    pub(super) fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError> {
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

    /// The revisions after `after`, at most `limit`.
    pub(super) fn read_revisions(
        &self,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<WatchBatch>, StoreError> {
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

    /// Decides the transactions one after the other, each on what those before it left, and commits all that
    /// were applied together. Trims the log to begin at `oldest` at the earliest.
    pub(super) fn apply<'a>(
        &self,
        bounds: LogBounds,
        group: impl Iterator<Item = &'a mut Txn>,
        oldest: impl FnOnce(Revision) -> Revision,
    ) -> Result<(Vec<TxnOutcome>, LogBounds), StoreError> {
        self.write("committing", |connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let mut statements = Statements::prepare(&transaction)?;
            let mut head = bounds.head;
            let mut outcomes = Vec::new();
            for txn in group {
                let outcome = statements.apply(head.next(), std::mem::take(txn))?;
                if matches!(outcome, TxnOutcome::Applied(_)) {
                    head = head.next();
                }
                outcomes.push(outcome);
            }
            let reached = LogBounds { oldest: oldest(head).clamp(bounds.oldest, head), head };
            if reached != bounds {
                let mut trim = transaction.prepare_cached("DELETE FROM log WHERE revision <= ?")?;
                if reached.oldest > bounds.oldest {
                    trim.execute([number(reached.oldest)])?;
                }
                let mut meta = transaction.prepare_cached("UPDATE meta SET revision = ?, oldest = ?")?;
                meta.execute([number(reached.head), number(reached.oldest)])?;
            }
            drop(statements);
            transaction.commit()?;
            Ok((outcomes, reached))
        })
    }

    /// Lets go of the file. Readers that are at it finish.
    pub(super) fn release(&self) {
        self.readers.close();
        // SQLite moves what is in its log into the file when the last connection goes.
        lock(&self.writer).take();
        lock(&self.lock).take();
    }

    /// Error of every call after the file was released.
    pub(super) fn closed_error(&self) -> StoreError {
        match self.failure.get() {
            None => StoreError::Closed,
            Some(failure) => {
                let cause = Cause::Stopped { path: self.path.clone(), source: failure.clone() };
                error::backend("working", false, cause)
            }
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let reader = self.readers.take().ok_or_else(|| self.closed_error())?;
        read(reader.connection()).map_err(|error| error::reading(&self.path, error))
    }

    /// A failed write may or may not be on the disk, and what the operating system kept of it is unknown: the
    /// store stops here, and only opening it again shows its state.
    fn write<T>(
        &self,
        operation: &'static str,
        write: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let result = write(lock(&self.writer).as_mut().ok_or_else(|| self.closed_error())?);
        result.map_err(|source| {
            let failure = error::backend(operation, true, Cause::Write { path: self.path.clone(), source });
            self.fail(failure.clone());
            failure
        })
    }

    /// Stops the store for good.
    pub(super) fn fail(&self, failure: StoreError) {
        self.failure.get_or_init(|| failure);
        self.release();
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("path", &self.path).finish_non_exhaustive()
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
        let waiting = |state: &mut Option<Vec<_>>| state.as_ref().is_some_and(Vec::is_empty);
        let mut state =
            self.freed.wait_while(lock(&self.state), waiting).unwrap_or_else(PoisonError::into_inner);
        Some(Reader { connection: state.as_mut()?.pop(), from: self })
    }

    fn close(&self) {
        lock(&self.state).take();
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
        if let (Some(free), Some(connection)) = (lock(&self.from.state).as_mut(), self.connection.take()) {
            free.push(connection);
            self.from.freed.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Prepared statements that decide and apply a commit group.
struct Statements<'a> {
    version: CachedStatement<'a>,
    put: CachedStatement<'a>,
    delete: CachedStatement<'a>,
    log: CachedStatement<'a>,
}

impl<'a> Statements<'a> {
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

    fn apply(&mut self, revision: Revision, txn: Txn) -> rusqlite::Result<TxnOutcome> {
        for guard in &txn.guards {
            let key = guard.key();
            let stored = self.version.query_row([key.as_str()], |row| revision_of(row, 0)).optional()?;
            if !guard.holds(stored) {
                return Ok(TxnOutcome::Conflict(key.clone()));
            }
        }
        let net: BTreeMap<_, _> = txn.into_net_writes();
        let mut changes = Vec::with_capacity(net.len());
        for (key, value) in net {
            let changed = match &value {
                Some(value) => self.put.execute(params![key.as_str(), &**value, number(revision)])? > 0,
                None => self.delete.execute([key.as_str()])? > 0,
            };
            if changed {
                self.log.execute(params![number(revision), key.as_str(), value.as_deref()])?;
                changes.push(Write { key, value });
            }
        }
        Ok(TxnOutcome::Applied(changes))
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
impl Core {
    /// The disk is full once the file has this many pages.
    pub(super) fn limit_pages(&self, pages: i64) {
        let writer = lock(&self.writer);
        writer.as_ref().unwrap().pragma_update(None, "max_page_count", pages).unwrap();
    }
}
