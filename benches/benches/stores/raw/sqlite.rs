//! SQLite by `rusqlite`.

use std::path::Path;

use super::{file::Client, trimmed};

pub(super) struct Sqlite {
    connection: rusqlite::Connection,
    head: u64,
    oldest: u64,
}

impl Sqlite {
    pub(super) fn open(dir: &Path) -> Self {
        let connection = rusqlite::Connection::open(dir.join("raw.sqlite")).expect("a file");
        let set_up = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
            CREATE TABLE records (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL); \
            CREATE TABLE log (revision INTEGER, key TEXT, value BLOB, PRIMARY KEY (revision, key)) WITHOUT ROWID; \
            CREATE TABLE meta (revision INTEGER, oldest INTEGER); INSERT INTO meta VALUES (0, 0)";
        connection.execute_batch(set_up).expect("tables");
        Self { connection, head: 0, oldest: 0 }
    }

    fn put(&mut self, keys: &[String], value: &[u8], claim: bool) -> rusqlite::Result<()> {
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut look = transaction.prepare_cached("SELECT 1 FROM records WHERE key = ?")?;
        let mut put = transaction.prepare_cached(
            "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value, \
             version = excluded.version",
        )?;
        let mut log = transaction.prepare_cached("INSERT INTO log VALUES (?, ?, ?)")?;
        for key in keys {
            assert!(!claim || !look.exists([key])?);
            self.head += 1;
            put.execute((key, value, self.head.cast_signed()))?;
            log.execute((self.head.cast_signed(), key, value))?;
        }
        if let Some(oldest) = trimmed(self.oldest, self.head) {
            transaction
                .prepare_cached("DELETE FROM log WHERE revision <= ?")?
                .execute([oldest.cast_signed()])?;
            self.oldest = oldest;
        }
        let extent = [self.head.cast_signed(), self.oldest.cast_signed()];
        transaction.prepare_cached("UPDATE meta SET revision = ?, oldest = ?")?.execute(extent)?;
        drop((look, put, log));
        transaction.commit()
    }
}

impl Client for Sqlite {
    fn write(&mut self, keys: &[String], value: &[u8], claim: bool) {
        self.put(keys, value, claim).expect("it is written");
    }
}
