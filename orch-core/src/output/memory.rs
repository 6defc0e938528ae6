//! Output in memory: what a process without durable state keeps.

use std::num::NonZeroU32;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    KeptOutput, NewOutput, OutputError, OutputPage, OutputPosition, OutputStore, OutputWatch,
    chunks::{PAGE_BYTES, cost},
    followers::Followers,
    index::{Chunk, Fresh, Index},
};
use crate::model::{TaskId, Timestamp};
use parking_lot::{Mutex, MutexGuard};

/// [`OutputStore`] in memory. The end of the process forgets it.
#[derive(Debug)]
pub struct MemoryOutput {
    index: Mutex<Index<Bytes>>,
    followers: Followers,
}

impl MemoryOutput {
    /// One that keeps up to `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self { index: Mutex::new(Index::new(bytes_max)), followers: Followers::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Index<Bytes>> {
        self.index.lock()
    }
}

#[async_trait]
impl OutputStore for MemoryOutput {
    async fn append(&self, chunks: Vec<NewOutput>) -> Result<(), OutputError> {
        let mut tasks = Vec::new();
        {
            let mut index = self.lock();
            let mut dropped = Vec::new();
            for Fresh { attempt, limit, age, number, stream, offset, time, data } in index.fresh(chunks) {
                // A part of something larger would keep all of it.
                let data = Bytes::copy_from_slice(&data);
                let chunk = Chunk { number, stream, offset, bytes: data.len() as u64, time, location: data };
                index.insert(attempt, age, chunk);
                index.trim(attempt, limit, &mut dropped);
                tasks.push(attempt.task);
            }
            index.evict(&mut dropped);
        }
        tasks.dedup();
        tasks.into_iter().for_each(|task| self.followers.wake(task));
        Ok(())
    }

    async fn read(&self, task: TaskId, after: Option<OutputPosition>) -> Result<OutputPage, OutputError> {
        let index = self.lock();
        let (mut page, mut bytes) = (OutputPage::default(), 0);
        for (position, chunk) in index.after(task, after) {
            if bytes >= PAGE_BYTES {
                page.more = page.chunks.last().map(|chunk| chunk.position);
                break;
            }
            bytes += cost(chunk.bytes);
            let Chunk { stream, offset, time, location: data, .. } = chunk.clone();
            page.chunks.push(KeptOutput { position, stream, offset, time, data });
        }
        Ok(page)
    }

    async fn place_of_last(
        &self,
        task: TaskId,
        attempt: Option<NonZeroU32>,
        bytes: u64,
    ) -> Result<Option<OutputPosition>, OutputError> {
        Ok(self.lock().place_of_last(task, attempt, bytes))
    }

    async fn place_since(
        &self,
        task: TaskId,
        attempt: Option<NonZeroU32>,
        since: Timestamp,
    ) -> Result<Option<OutputPosition>, OutputError> {
        Ok(self.lock().place_since(task, attempt, since))
    }

    async fn follow(&self, task: TaskId) -> Result<OutputWatch, OutputError> {
        Ok(self.followers.follow(task))
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<(), OutputError> {
        let (mut index, mut dropped) = (self.lock(), Vec::new());
        tasks.iter().for_each(|task| index.forget(*task, &mut dropped));
        Ok(())
    }

    async fn tasks(&self) -> Vec<TaskId> {
        self.lock().tasks()
    }

    async fn sync(&self) -> Result<(), OutputError> {
        Ok(())
    }
}
