//! Stored log offsets. The engine rotates old output away without reporting how much, and offsets must be the
//! same on every read, by this incarnation of the agent or the next.

use std::{io, path::Path};

use orch_core::runtime::OutputStream;
use serde::{Deserialize, Serialize};
use tokio::fs;

use crate::clock::EngineTime;

/// Log offsets of both streams of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogOffsets {
    stdout: Option<LogOffset>,
    stderr: Option<LogOffset>,
}

/// Log offset of one stream. Lines are identified by the time at which the engine got them; parts of one long
/// line share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogOffset {
    /// Time of a line.
    pub(crate) at: EngineTime,
    /// Bytes of the stream before that line.
    pub(crate) begin: u64,
    /// Bytes of the stream before the next line.
    pub(crate) end: u64,
}

impl LogOffsets {
    /// Reads a file of log offsets. Without a readable one there are none: a read of output should not fail
    /// for it.
    pub(crate) async fn load(path: &Path) -> Self {
        let text = fs::read(path).await.unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Writes the file atomically.
    pub(crate) async fn store(&self, path: &Path) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).await?;
        }
        let staged = path.with_extension("new");
        fs::write(&staged, serde_json::to_vec(self)?).await?;
        fs::rename(&staged, path).await
    }

    /// Removes the file. A missing one is a success.
    pub(crate) async fn remove(path: &Path) -> io::Result<()> {
        match fs::remove_file(path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    pub(crate) fn of(&self, stream: OutputStream) -> Option<LogOffset> {
        match stream {
            OutputStream::Stdout => self.stdout,
            OutputStream::Stderr => self.stderr,
        }
    }

    pub(crate) fn of_mut(&mut self, stream: OutputStream) -> &mut Option<LogOffset> {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}
