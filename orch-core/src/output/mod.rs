//! Store of the output of tasks, apart from the records of the cluster: much of it, in order, bounded, and
//! worth no history.
//!
//! Here: [`MemoryOutput`], [`FileOutput`] in a directory of this machine, and [`StoreOutput`] in any
//! [`StateStore`](crate::store::StateStore), for members that share one. `testkit::output` has a suite for
//! others.

mod chunks;
mod error;
#[cfg(unix)]
mod files;
mod followers;
mod index;
mod memory;
mod records;

use std::num::NonZeroU32;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

pub use self::error::OutputError;
#[cfg(unix)]
pub use self::files::{FileOutput, FileOutputConfig};
pub(crate) use self::{chunks::beyond, records::move_out};
pub use self::{memory::MemoryOutput, records::StoreOutput};
use crate::{
    model::{AttemptId, TaskId, Timestamp},
    runtime::OutputStream,
};

/// Store that keeps output, within a bound on all of it. To free space the attempts that wrote first are
/// forgotten first, as a whole.
#[async_trait]
pub trait OutputStore: std::fmt::Debug + Send + Sync + 'static {
    /// Keeps chunks, in their order. What is there already is left out. After an error, or when the future
    /// was dropped, any part may be kept; appending the same again is right.
    ///
    /// # Errors
    /// When not all could be kept. Nothing that was kept before is lost by that, except attempts forgotten to
    /// free space.
    async fn append(&self, chunks: Vec<NewOutput>) -> Result<(), OutputError>;

    /// Some of the next chunks of a task after `after`, or its first ones: attempt by attempt, in the order
    /// in which they were appended.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn read(&self, task: TaskId, after: Option<OutputPosition>) -> Result<OutputPage, OutputError>;

    /// A position after which the last `bytes` bytes of a task come, or of one attempt of it, and at most a
    /// chunk more; `None` where that is everything. This reads all of it; a store that knows the sizes of its
    /// chunks has a better way.
    ///
    /// # Errors
    /// When it cannot be found.
    async fn place_of_last(
        &self,
        task: TaskId,
        attempt: Option<NonZeroU32>,
        bytes: u64,
    ) -> Result<Option<OutputPosition>, OutputError> {
        let (mut sizes, mut after) = (Vec::new(), attempt.and_then(OutputPosition::before_attempt));
        loop {
            let page = self.read(task, after).await?;
            let of_it =
                page.chunks.iter().filter(|chunk| attempt.is_none_or(|of| chunk.position.attempt == of));
            sizes.extend(of_it.map(|chunk| (chunk.position, chunk.data.len() as u64)));
            match page.more {
                Some(more) => after = Some(more),
                None => return Ok(OutputPosition::before_last(sizes.into_iter().rev(), bytes)),
            }
        }
    }

    /// A position up to which everything of a task, or of one attempt of it, was taken in before `since` or
    /// at an unknown time; `None` where the first chunk was not. What comes after it may be older in parts,
    /// where a clock went back. This reads all that is before it; a store that knows the times of its chunks
    /// has a better way.
    ///
    /// # Errors
    /// When it cannot be found.
    async fn place_since(
        &self,
        task: TaskId,
        attempt: Option<NonZeroU32>,
        since: Timestamp,
    ) -> Result<Option<OutputPosition>, OutputError> {
        let (mut reached, mut after) = (None, attempt.and_then(OutputPosition::before_attempt));
        loop {
            let page = self.read(task, after).await?;
            for chunk in page.chunks {
                let of_it = attempt.is_none_or(|of| chunk.position.attempt == of);
                if !of_it || chunk.time >= Some(since) {
                    return Ok(reached);
                }
                reached = Some(chunk.position);
            }
            match page.more {
                Some(more) => after = Some(more),
                None => return Ok(reached),
            }
        }
    }

    /// Yields after something was appended for the task since the call. Several appends may be reported as
    /// one. The end means that nothing more will be appended here.
    ///
    /// # Errors
    /// When that cannot be found out.
    async fn follow(&self, task: TaskId) -> Result<OutputWatch, OutputError>;

    /// Forgets all output of these tasks.
    ///
    /// # Errors
    /// When some may show up again after a restart.
    async fn forget(&self, tasks: &[TaskId]) -> Result<(), OutputError>;

    /// The tasks of which something is kept.
    async fn tasks(&self) -> Vec<TaskId>;

    /// Makes what was appended as durable as it gets.
    ///
    /// # Errors
    /// When that is not certain.
    async fn sync(&self) -> Result<(), OutputError>;
}

/// See [`OutputStore::follow`].
pub type OutputWatch = BoxStream<'static, Result<(), OutputError>>;

/// Chunk of output to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewOutput {
    /// Attempt that wrote it.
    pub attempt: AttemptId,
    /// Bytes that are kept of the attempt; beyond it the oldest chunks are dropped.
    pub limit: u64,
    /// Stream that it was written to.
    pub stream: OutputStream,
    /// Bytes of this stream and attempt before it. With the length of the data at most [`u64::MAX`].
    pub offset: u64,
    /// Time at which it was received, where that is known.
    pub time: Option<Timestamp>,
    /// The bytes.
    pub data: Bytes,
}

/// Chunk of output that was kept. Where two overlap, they have the same bytes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptOutput {
    /// Its position.
    pub position: OutputPosition,
    /// Stream that it was written to.
    pub stream: OutputStream,
    /// Bytes of this stream and attempt before it.
    pub offset: u64,
    /// Time at which it was first received; absent in output kept by a version without times.
    pub time: Option<Timestamp>,
    /// The bytes.
    pub data: Bytes,
}

/// Position of a chunk among those of its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutputPosition {
    /// Attempt that wrote it.
    pub attempt: NonZeroU32,
    /// Its number among the chunks of the attempt.
    pub number: u64,
}

impl OutputPosition {
    /// The last position before those of an attempt; `None` before the first one.
    pub(crate) fn before_attempt(attempt: NonZeroU32) -> Option<Self> {
        NonZeroU32::new(attempt.get() - 1).map(|attempt| Self { attempt, number: u64::MAX })
    }

    /// The position before the chunks that have `bytes` bytes together, of chunks from the last to the first.
    fn before_last(sizes: impl Iterator<Item = (Self, u64)>, bytes: u64) -> Option<Self> {
        let mut sum = 0_u64;
        for (position, size) in sizes {
            if sum >= bytes {
                return Some(position);
            }
            sum = sum.saturating_add(size);
        }
        None
    }
}

/// A part of the output of a task.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct OutputPage {
    /// In order of their positions.
    pub chunks: Vec<KeptOutput>,
    /// Position after which to go on, when there is more.
    pub more: Option<OutputPosition>,
}

#[cfg(all(test, unix))]
mod tests;
