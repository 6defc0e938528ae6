//! Permits of a queue: the bound on the bytes that wait in it.

use std::sync::Arc;

use orch_core::store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit stands for, and the least that an item of a queue counts.
const PERMIT_BYTES: usize = 1024;

/// Bound on the bytes that wait in a queue: whatever is put there holds permits until it has left. Clones
/// share the bound.
#[derive(Clone, Debug)]
pub(crate) struct QueuePermits {
    semaphore: Arc<Semaphore>,
    all: u32,
}

impl QueuePermits {
    /// Permits for a queue of `bytes` bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let all = permits_for(bytes);
        Self { semaphore: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// The most items that hold permits at a time.
    #[cfg(feature = "postgres")]
    pub(crate) fn items_max(&self) -> usize {
        self.all as usize
    }

    /// Waits for the permits of an item of `bytes` bytes; for all there are when it is larger than the queue.
    pub(crate) async fn acquire(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let wanted = permits_for(bytes).min(self.all);
        Arc::clone(&self.semaphore).acquire_many_owned(wanted).await.map_err(|_| StoreError::Closed)
    }

    /// The permits of an item of `bytes` bytes, if they are free now.
    #[cfg(feature = "crdt")]
    pub(crate) fn try_acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.semaphore).try_acquire_many_owned(permits_for(bytes)).ok()
    }
}

fn permits_for(bytes: usize) -> u32 {
    let permits = (bytes / PERMIT_BYTES + 1).min(Semaphore::MAX_PERMITS);
    u32::try_from(permits).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_item_larger_than_the_queue_takes_all_of_it() {
        let permits = QueuePermits::new(10 << 10);
        let small = permits.acquire(0).await.unwrap();
        assert_eq!(small.num_permits(), 1);
        drop(small);
        let large = permits.acquire(1 << 30).await.unwrap();
        assert_eq!((large.num_permits(), permits.semaphore.available_permits()), (11, 0));
    }
}
