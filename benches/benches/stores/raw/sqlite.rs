//! SQLite by `rusqlite`.

use std::path::Path;

use futures_util::{FutureExt as _, future::BoxFuture};

use super::{key, number};
use crate::{BYTES, Raw};

pub(super) struct Sqlite(rusqlite::Connection);

impl Sqlite {
    pub(super) fn open(dir: &Path) -> Self {
        let connection = rusqlite::Connection::open(dir.join("raw.sqlite")).expect("a file");
        let set_up = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
            CREATE TABLE records (key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, version INTEGER NOT NULL); \
            CREATE TABLE log (revision INTEGER, key TEXT, value BLOB, PRIMARY KEY (revision, key)) WITHOUT ROWID; \
            CREATE TABLE meta (revision INTEGER); INSERT INTO meta VALUES (0)";
        connection.execute_batch(set_up).expect("tables");
        Self(connection)
    }
}

impl Raw for Sqlite {
    fn write(&mut self, together: u64, claim: bool) -> BoxFuture<'_, ()> {
        let mut write = || {
            let transaction = self.0.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let value = vec![7; BYTES];
            for _ in 0..together {
                let revision = number();
                let key = key(revision.unsigned_abs(), claim);
                if claim {
                    let mut look = transaction.prepare_cached("SELECT 1 FROM records WHERE key = ?")?;
                    assert!(!look.exists([&key])?);
                }
                let mut put = transaction.prepare_cached(
                    "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value, \
                     version = excluded.version",
                )?;
                put.execute((&key, &value, revision))?;
                let mut log = transaction.prepare_cached("INSERT INTO log VALUES (?, ?, ?)")?;
                log.execute((revision, &key, &value))?;
            }
            transaction.prepare_cached("UPDATE meta SET revision = ?")?.execute([number()])?;
            transaction.commit()
        };
        let done: rusqlite::Result<()> = write();
        done.expect("it is written");
        std::future::ready(()).boxed()
    }
}
