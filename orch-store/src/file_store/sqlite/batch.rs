//! Prepared statements of one transaction that writes.

use orch_core::store::{Key, Position, Revision, Write};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::{
    super::{
        checksum,
        engine::{Batch, LogBounds},
    },
    engine::position_of,
    rows::{number, position_in, signed},
};

/// See [`Batch`].
pub(super) struct SqliteBatch<'a> {
    connection: &'a Connection,
    /// Those before the transaction.
    bounds: LogBounds,
    version: CachedStatement<'a>,
    put: CachedStatement<'a>,
    delete: CachedStatement<'a>,
    log: CachedStatement<'a>,
    commits: CachedStatement<'a>,
}

impl<'a> SqliteBatch<'a> {
    pub(super) fn prepare(connection: &'a Connection, bounds: LogBounds) -> rusqlite::Result<Self> {
        Ok(Self {
            connection,
            bounds,
            version: connection.prepare_cached("SELECT version, incarnation FROM records WHERE key = ?")?,
            put: connection.prepare_cached(
                "INSERT INTO records (key, value, version, incarnation, checksum) VALUES (?, ?, ?, ?, ?) \
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value, version = excluded.version, \
                 incarnation = excluded.incarnation, checksum = excluded.checksum",
            )?,
            delete: connection.prepare_cached("DELETE FROM records WHERE key = ?")?,
            log: connection
                .prepare_cached("INSERT INTO log (revision, key, value, checksum) VALUES (?, ?, ?, ?)")?,
            commits: connection
                .prepare_cached("INSERT INTO commits (revision, incarnation) VALUES (?, ?)")?,
        })
    }
}

impl Batch for SqliteBatch<'_> {
    type Error = rusqlite::Error;

    fn version(&mut self, key: &Key) -> rusqlite::Result<Option<Position>> {
        self.version.query_row([key.as_str()], |row| position_in(row, 0)).optional()
    }

    fn put(&mut self, key: &Key, value: &[u8], version: Position) -> rusqlite::Result<()> {
        let sum = checksum::of_record(key.as_str(), version, value);
        let (revision, incarnation) = (number(version.revision), signed(version.incarnation));
        self.put.execute(params![key.as_str(), value, revision, incarnation, sum])?;
        Ok(())
    }

    fn delete(&mut self, key: &Key) -> rusqlite::Result<bool> {
        Ok(self.delete.execute([key.as_str()])? > 0)
    }

    fn append_log(&mut self, position: Position, writes: &[Write]) -> rusqlite::Result<()> {
        let revision = number(position.revision);
        self.commits.execute([revision, signed(position.incarnation)])?;
        for Write { key, value } in writes {
            let sum = checksum::of_change(key, position, value.as_deref());
            self.log.execute(params![revision, key.as_str(), value.as_deref(), sum])?;
        }
        Ok(())
    }

    fn position(&mut self, revision: Revision) -> rusqlite::Result<Position> {
        position_of(self.connection, self.bounds, revision)
    }
}
