//! Locks by key, kept for as long as they are used.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

/// Serialises operations on the same key. Keys that nobody holds or waits for take no memory for long.
#[derive(Debug)]
pub(crate) struct KeyedLocks<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> KeyedLocks<K> {
    pub(crate) async fn lock(&self, key: K) -> OwnedMutexGuard<()> {
        self.get(key).lock_owned().await
    }

    fn get(&self, key: K) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock();
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() == locks.capacity() {
            locks.retain(|_, lock| lock.strong_count() > 0); // before it would grow
        }
        let lock = Arc::default();
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_key_waits_and_another_does_not() {
        let locks = KeyedLocks::default();
        let held = locks.lock(1).await;
        drop(locks.lock(2).await);
        assert!(locks.get(1).try_lock().is_err());
        drop(held);
        drop(locks.lock(1).await);
    }

    #[tokio::test]
    async fn keys_that_nobody_holds_are_forgotten() {
        let locks = KeyedLocks::default();
        for key in 0..10_000 {
            drop(locks.lock(key).await);
        }
        assert!(locks.0.lock().capacity() < 100);
    }
}
