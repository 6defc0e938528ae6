//! redb by itself.

use std::path::Path;

use redb::{Database, ReadableTable as _, TableDefinition};

use super::{file::Client, trimmed};

const RECORDS: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("records");
/// Log table: revision to key and value.
const LOG: TableDefinition<'_, u64, (&str, &[u8])> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

pub(super) struct Redb {
    database: Database,
    head: u64,
    oldest: u64,
}

impl Redb {
    pub(super) fn open(dir: &Path) -> Self {
        let database = redb::Builder::new().set_cache_size(64 << 20).create(dir.join("raw.redb"));
        Self { database: database.expect("a file"), head: 0, oldest: 0 }
    }

    fn put(&mut self, keys: &[String], value: &[u8], claim: bool) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut records = transaction.open_table(RECORDS)?;
            let mut log = transaction.open_table(LOG)?;
            for key in keys {
                assert!(!claim || records.get(key.as_str())?.is_none());
                self.head += 1;
                records.insert(key.as_str(), (self.head, value))?;
                log.insert(self.head, (key.as_str(), value))?;
            }
            if let Some(oldest) = trimmed(self.oldest, self.head) {
                log.retain_in(..=oldest, |_, _| false)?;
                self.oldest = oldest;
            }
            let mut meta = transaction.open_table(META)?;
            meta.insert("revision", self.head)?;
            meta.insert("oldest", self.oldest)?;
        }
        Ok(transaction.commit()?)
    }
}

impl Client for Redb {
    fn write(&mut self, keys: &[String], value: &[u8], claim: bool) {
        self.put(keys, value, claim).expect("it is written");
    }
}
