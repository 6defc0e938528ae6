//! [`OutputLayer`].

use std::fmt;

use async_trait::async_trait;

use super::Layered;
use crate::{
    model::TaskId,
    output::{OutputError, OutputPage, OutputPiece, OutputPosition, OutputStore, OutputWatch},
};

/// Change of a store of output for a test, such as a disk that is full.
#[async_trait]
pub trait OutputLayer: fmt::Debug + Send + Sync + 'static {
    /// The store below.
    fn below(&self) -> &dyn OutputStore;

    /// As [`OutputStore::append`].
    ///
    /// # Errors
    /// As there.
    async fn append(&self, pieces: Vec<OutputPiece>) -> Result<(), OutputError> {
        self.below().append(pieces).await
    }

    /// As [`OutputStore::read`].
    ///
    /// # Errors
    /// As there.
    async fn read(&self, task: TaskId, after: Option<OutputPosition>) -> Result<OutputPage, OutputError> {
        self.below().read(task, after).await
    }
}

#[async_trait]
impl<L: OutputLayer> OutputStore for Layered<L> {
    async fn append(&self, pieces: Vec<OutputPiece>) -> Result<(), OutputError> {
        self.0.append(pieces).await
    }

    async fn read(&self, task: TaskId, after: Option<OutputPosition>) -> Result<OutputPage, OutputError> {
        self.0.read(task, after).await
    }

    async fn follow(&self, task: TaskId) -> Result<OutputWatch, OutputError> {
        self.0.below().follow(task).await
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<(), OutputError> {
        self.0.below().forget(tasks).await
    }

    async fn tasks(&self) -> Vec<TaskId> {
        self.0.below().tasks().await
    }

    async fn sync(&self) -> Result<(), OutputError> {
        self.0.below().sync().await
    }
}
