//! Operations on any store that are made of several calls.

use super::{Key, Page, StateStore, StoreError, Txn, Write, txn_chunks::chunked_txns};

/// Operations of every [`StateStore`] that are made of several calls. For users; backends implement nothing
/// of it.
pub trait StateStoreExt: StateStore {
    /// The records below `prefix` in byte order of keys, in pages of at most `page_len`, which is at least
    /// one. Each page is of one revision; records that are written between two pages may be missed.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::{Key, MemoryStore, StateStore, StateStoreExt, Write};
    /// # let store = MemoryStore::default();
    /// # let write = |number: u32| Write::put(Key::new(format!("tasks/{number}")).unwrap(), "");
    /// # store.write_all((0..25).map(write).collect()).await.unwrap();
    /// let (mut lengths, mut pages) = (Vec::new(), store.pages("tasks/", 10));
    /// while let Some(page) = pages.next().await.unwrap() {
    ///     lengths.push(page.entries.len());
    /// }
    /// assert_eq!(lengths, [10, 10, 5]);
    /// # });
    /// ```
    fn pages<'a>(&'a self, prefix: &'a str, page_len: usize) -> Pages<'a, Self> {
        Pages { store: self, prefix, page_len: page_len.max(1), after: None, done: false }
    }

    /// Commits writes without guards, in as many transactions as the store needs, one after the other. May be
    /// dropped; a part of them is committed then, as after an error.
    ///
    /// ```
    /// # orch_core::block_on(async {
    /// # use orch_core::store::*;
    /// let store = MemoryStore::new(MemoryStoreConfig { max_txn_writes: 10, ..Default::default() });
    /// let write = |number: u32| Write::put(Key::new(format!("tasks/{number}")).unwrap(), "");
    /// store.write_all((0..25).map(write).collect()).await.unwrap();
    /// assert_eq!(store.head().await.unwrap().revision, Revision(3));
    /// # });
    /// ```
    ///
    /// # Errors
    /// [`StoreError`] of the first transaction that fails.
    fn write_all(&self, writes: Vec<Write>) -> impl Future<Output = Result<(), StoreError>> + Send {
        async move {
            for txn in chunked_txns(&self.capabilities(), writes) {
                commit_unguarded(self, txn).await?;
            }
            Ok(())
        }
    }
}

impl<S: StateStore + ?Sized> StateStoreExt for S {}

async fn commit_unguarded(store: &(impl StateStore + ?Sized), txn: Txn) -> Result<(), StoreError> {
    let committed = store.commit(txn).await;
    committed.map(drop).map_err(|error| error.of_unguarded(store.capabilities().name))
}

/// Pages of a scan; see [`StateStoreExt::pages`].
#[derive(Debug)]
pub struct Pages<'a, S: ?Sized> {
    store: &'a S,
    prefix: &'a str,
    page_len: usize,
    after: Option<Key>,
    done: bool,
}

impl<S: StateStore + ?Sized> Pages<'_, S> {
    /// The next page; `None` after the last one. The first may be empty. May be dropped, and called again
    /// after an error.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn next(&mut self) -> Result<Option<Page>, StoreError> {
        if self.done {
            return Ok(None);
        }
        let page = self.store.scan(self.prefix, self.after.as_ref(), self.page_len).await?;
        self.after = page.entries.last().map(|entry| entry.key.clone());
        self.done = !page.more || self.after.is_none();
        Ok(Some(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, MemoryStoreConfig};

    #[tokio::test]
    async fn all_writes_arrive_and_all_pages_have_them_once() {
        let config = MemoryStoreConfig { max_txn_writes: 3, ..MemoryStoreConfig::default() };
        let store = MemoryStore::new(config);
        let key = |n: u32| Key::new(format!("k/{n:02}")).unwrap();
        store.write_all((0..10).map(|n| Write::put(key(n), "v")).collect()).await.unwrap();
        store.write_all(vec![Write::put(Key::new("other").unwrap(), "v")]).await.unwrap();
        let (mut pages, mut found, mut sizes) = (store.pages("k/", 4), Vec::new(), Vec::new());
        while let Some(page) = pages.next().await.unwrap() {
            sizes.push(page.entries.len());
            found.extend(page.entries.into_iter().map(|entry| entry.key));
        }
        assert_eq!((found, sizes), ((0..10).map(key).collect::<Vec<_>>(), vec![4, 4, 2]));
        let mut none = store.pages("nothing/", 4);
        assert_eq!(none.next().await.unwrap().unwrap().entries, []);
        assert_eq!(none.next().await.unwrap(), None);
    }
}
