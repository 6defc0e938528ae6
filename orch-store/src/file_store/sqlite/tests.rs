//! The store on a full disk, and beside a program that holds a lock on its file.

use orch_core::store::{CommitError, Key, StateStore, StoreError, Txn, Write};

use super::{SqliteStore, SqliteStoreConfig};

fn put(key: &str, value: Vec<u8>) -> Txn {
    Txn::of(vec![Write::put(Key::new(key).unwrap(), value)])
}

#[tokio::test]
async fn a_full_disk_stops_the_store_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteStoreConfig::new(dir.path())).await.unwrap();
    store.commit(put("kept", b"1".to_vec())).await.unwrap();
    let watch = store.watch("", orch_core::store::Position::ZERO).await.unwrap();
    store.writer.file().limit_pages(64);
    let reserve = dir.path().join("orch.sqlite.reserve");
    assert!(reserve.exists());

    let mut last = store.head().await.unwrap();
    let failure = loop {
        match store.commit(put(&format!("fill/{last}"), vec![7; 10_000])).await {
            Ok(revision) => last = revision,
            Err(CommitError::Store(error)) => break error,
            Err(conflict) => panic!("{conflict}"),
        }
    };
    assert!(failure.outcome_unknown() && !failure.is_retryable(), "{failure:?}");
    let cause = std::error::Error::source(&failure).unwrap().to_string();
    assert!(cause.contains("orch.sqlite") && cause.contains("open the store again"), "{cause}");
    assert!(cause.contains("the disk is full"), "{cause}");
    assert!(!reserve.exists(), "records can be deleted when the store is opened again");
    let Err(CommitError::Store(after)) = store.commit(put("after", Vec::new())).await else {
        panic!("a failed store must stop")
    };
    assert!(matches!(after, StoreError::Backend { outcome_unknown: false, .. }), "{after:?}");
    assert!(store.get(&Key::new("kept").unwrap()).await.is_err(), "a failed store must not answer");
    let items: Vec<_> = futures_util::StreamExt::collect(watch).await;
    assert!(items.last().unwrap().is_err(), "a watch must end with the failure");
    store.close().await.unwrap();

    let store = SqliteStore::open(SqliteStoreConfig::new(dir.path())).await.unwrap();
    assert_eq!(store.head().await.unwrap(), last, "what was acknowledged must be there");
    store.commit(put("after", Vec::new())).await.unwrap();
}

#[tokio::test]
async fn a_lock_of_another_program_refuses_commits_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteStoreConfig::new(dir.path())).await.unwrap();
    let position = store.commit(put("a", b"1".to_vec())).await.unwrap();
    store.writer.file().limit_wait(std::time::Duration::from_millis(10));
    let other = rusqlite::Connection::open(dir.path().join("orch.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let Err(CommitError::Store(error)) = store.commit(put("a", b"2".to_vec())).await else {
        panic!("another program has the file")
    };
    assert!(error.is_retryable() && !error.outcome_unknown(), "{error:?}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("another program holds a lock") && cause.contains("orch.sqlite"), "{cause}");
    assert!(store.compact(position.revision).await.unwrap_err().is_retryable());
    assert_eq!(store.get(&Key::new("a").unwrap()).await.unwrap().unwrap().value, "1");
    other.execute_batch("ROLLBACK").unwrap();
    let next = store.commit(put("a", b"3".to_vec())).await.unwrap();
    assert_eq!(next.revision, position.revision.next());
    store.close().await.unwrap();
}
