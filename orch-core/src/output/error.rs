//! Errors of an output store.

use std::{io, path::PathBuf, sync::Arc};

use crate::store::StoreError;

/// Why output could not be kept or read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The state store that keeps it failed.
    #[error("the store of output failed")]
    Store(#[from] StoreError),
    /// Another process uses the directory.
    #[error(
        "the output directory {0} is in use by another process; end that one or choose another directory"
    )]
    Locked(PathBuf),
    /// A file could not be used. When the disk is full, free space on it; nothing that was kept is lost.
    #[error("{doing} {path} failed")]
    File {
        /// Operation that failed.
        doing: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
}

impl OutputError {
    pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source: Arc::new(source) }
    }
}
