//! Migration of files of earlier versions.

use orch_core::store::{Incarnation, Position, Revision};
use redb::{Database, ReadableTable as _, TableDefinition};

use super::engine::{
    FORMAT, LOG, META, META_FORMAT, META_INCARNATION, META_OLDEST_INCARNATION, RECORDS, entry, record,
};

const RECORDS_1: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("records");
const LOG_1: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// Format 1 has no incarnations and no checksums. All of it is one transaction.
pub(super) fn from_1(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let at = |revision| Position::new(Revision(revision), Incarnation(0));
        let (old, mut new) = (transaction.open_table(RECORDS_1)?, transaction.open_table(RECORDS)?);
        for found in old.iter()? {
            let (key, stored) = found?;
            let (version, value) = stored.value();
            new.insert(key.value(), record(key.value(), at(version), value))?;
        }
        let (old, mut new) = (transaction.open_table(LOG_1)?, transaction.open_table(LOG)?);
        for found in old.iter()? {
            let (revision, writes) = found?;
            new.insert(revision.value(), entry(at(revision.value()), writes.value()))?;
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT)?;
        meta.insert(META_INCARNATION, 0)?;
        meta.insert(META_OLDEST_INCARNATION, 0)?;
    }
    transaction.delete_table(RECORDS_1)?;
    transaction.delete_table(LOG_1)?;
    Ok(transaction.commit()?)
}
