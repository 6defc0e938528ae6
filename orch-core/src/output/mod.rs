//! Place of the output of tasks, apart from the records of the cluster: much of it, in order, bounded, and worth no history.
//!
//! Here: [`MemoryOutput`], [`FileOutput`] in a directory of this machine, and [`StoreOutput`] in any
//! [`StateStore`](crate::store::StateStore), for members that share one. `testkit::output` has a suite for
//! others.

mod error;
#[cfg(unix)]
mod files;
mod followers;
mod index;
mod memory;
mod pieces;
mod records;

use std::num::NonZeroU32;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

pub use self::error::OutputError;
#[cfg(unix)]
pub use self::files::{FileOutput, FileOutputConfig};
pub use self::{memory::MemoryOutput, records::StoreOutput};
pub(crate) use self::{pieces::beyond, records::move_out};
use crate::{
    model::{AttemptId, TaskId, Timestamp},
    runtime::OutputStream,
};

/// Place that keeps output, within a bound on all of it. To make room the attempts that wrote first are forgotten first, as
/// a whole.
#[async_trait]
pub trait OutputStore: std::fmt::Debug + Send + Sync + 'static {
    /// Keeps pieces, in their order. What is there already is left out. After an error, or when the future was dropped, any
    /// part may be kept; appending the same again is right.
    ///
    /// # Errors
    /// When not all could be kept. Nothing that was kept before is lost by that, except what made room.
    async fn append(&self, pieces: Vec<OutputPiece>) -> Result<(), OutputError>;

    /// Some of the next pieces of a task after `after`, or its first ones: attempt by attempt, in the order in which they
    /// were appended.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn read(&self, task: TaskId, after: Option<OutputPosition>) -> Result<OutputPage, OutputError>;

    /// A place after which the last `bytes` bytes of a task come, or of one attempt of it, and at most a piece more;
    /// `None` where that is everything. This reads all of it; a place that knows the sizes of its pieces has a better
    /// way.
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
                page.pieces.iter().filter(|piece| attempt.is_none_or(|of| piece.position.attempt == of));
            sizes.extend(of_it.map(|piece| (piece.position, piece.data.len() as u64)));
            match page.more {
                Some(more) => after = Some(more),
                None => return Ok(OutputPosition::before_last(sizes.into_iter().rev(), bytes)),
            }
        }
    }

    /// A place up to which everything of a task, or of one attempt of it, was taken in before `since` or at an unknown
    /// time; `None` where the first piece was not. What comes after it may be older in parts, where a clock went back.
    /// This reads all that is before it; a place that knows the times of its pieces has a better way.
    ///
    /// # Errors
    /// When it cannot be found.
    async fn place_since(
        &self,
        task: TaskId,
        attempt: Option<NonZeroU32>,
        since: Timestamp,
    ) -> Result<Option<OutputPosition>, OutputError> {
        let (mut place, mut after) = (None, attempt.and_then(OutputPosition::before_attempt));
        loop {
            let page = self.read(task, after).await?;
            for piece in page.pieces {
                let of_it = attempt.is_none_or(|of| piece.position.attempt == of);
                if !of_it || piece.time >= Some(since) {
                    return Ok(place);
                }
                place = Some(piece.position);
            }
            match page.more {
                Some(more) => after = Some(more),
                None => return Ok(place),
            }
        }
    }

    /// Yields after something was appended for the task since the call. Several appends may be told as one. The end means
    /// that nothing more will be appended here.
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

/// Piece of output to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPiece {
    /// Which attempt wrote it.
    pub attempt: AttemptId,
    /// Bytes that are kept of the attempt; beyond it the oldest pieces are dropped.
    pub limit: u64,
    /// Where it was written to.
    pub stream: OutputStream,
    /// How many bytes of this stream and attempt came before it. With the length of the data at most [`u64::MAX`].
    pub offset: u64,
    /// When it was taken in, where that is known.
    pub time: Option<Timestamp>,
    /// The bytes.
    pub data: Bytes,
}

/// Piece of output that was kept. Where two overlap, they have the same bytes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptOutput {
    /// Its place.
    pub position: OutputPosition,
    /// Where it was written to.
    pub stream: OutputStream,
    /// How many bytes of this stream and attempt came before it.
    pub offset: u64,
    /// When it was first taken in; absent in what was kept by a version without times.
    pub time: Option<Timestamp>,
    /// The bytes.
    pub data: Bytes,
}

/// Place of a piece among those of its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutputPosition {
    /// Which attempt wrote it.
    pub attempt: NonZeroU32,
    /// Its place among the pieces of the attempt.
    pub number: u64,
}

impl OutputPosition {
    /// The last place before those of an attempt; `None` before the first one.
    pub(crate) fn before_attempt(attempt: NonZeroU32) -> Option<Self> {
        NonZeroU32::new(attempt.get() - 1).map(|attempt| Self { attempt, number: u64::MAX })
    }

    /// The place before the pieces that have `bytes` bytes together, of pieces from the last to the first.
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
    pub pieces: Vec<KeptOutput>,
    /// Where to go on, when there is more.
    pub more: Option<OutputPosition>,
}

#[cfg(all(test, unix))]
mod tests;
