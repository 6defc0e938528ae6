//! Giving space back to the disk, which the file never does by itself.

use std::path::Path;

use redb::Database;

/// A smaller file is not worth the look.
const WORTH: u64 = 64 << 20;

/// Makes a large file smaller, when less than a quarter of it is used.
pub(super) fn shrink(path: &Path, database: &mut Database) -> Result<(), redb::Error> {
    let size = std::fs::metadata(path).map_err(redb::Error::Io)?.len();
    if size < WORTH {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    let stats = transaction.stats()?;
    transaction.abort()?;
    if (stats.stored_bytes() + stats.metadata_bytes()).saturating_mul(4) < size {
        database.compact()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use orch_core::store::{Key, StateStore as _, Txn, Write};

    use super::*;
    use crate::redb::{RedbStore, RedbStoreConfig};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_was_full_once_is_small_after_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let size = || std::fs::metadata(dir.path().join(super::super::FILE)).unwrap().len();
        let key = |n: u32| Key::new(format!("large/{n}")).unwrap();
        let open = async || RedbStore::open(RedbStoreConfig::new(dir.path())).await.unwrap();
        let store = open().await;
        for n in 0..40 {
            store.commit(Txn::of(vec![Write::put(key(n), vec![7; 2 << 20])])).await.unwrap();
        }
        store.commit(Txn::of((0..39).map(|n| Write::delete(key(n))).collect())).await.unwrap();
        // The last one lies at the end of the file and keeps it large.
        store.compact(store.head().await.unwrap().revision).await.unwrap();
        store.close().await.unwrap();
        let before = size();
        assert!(before > WORTH, "{before}");
        let store = open().await;
        assert!(size() < before / 4, "{} of {before}", size());
        assert_eq!(store.get(&key(39)).await.unwrap().unwrap().value.len(), 2 << 20);
        store.commit(Txn::of(vec![Write::put(key(1), "new")])).await.unwrap();
        store.close().await.unwrap();
    }
}
