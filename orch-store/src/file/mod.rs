//! Shared by the stores with a redb file of their own: opening it, its errors, and work that blocks.

pub(crate) mod error;
mod opened;
#[cfg(test)]
pub(crate) mod sim_disk;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use bytes::Bytes;
use orch_core::store::{StoreError, Txn};
use redb::Database;
use tokio::sync::Semaphore;

pub(crate) use self::opened::File;

/// Bytes of a transaction or message that one permit of a queue stands for.
const PERMIT_BYTES: usize = 1024;

/// Runs `work` on a thread for work that blocks. Its own panics go on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The async runtime shuts down and takes no more work.
            Err(_) => Err(StoreError::Closed),
        },
    }
}

/// Makes the directory, and the file where it is missing, which it says. Nobody but the owner may read what
/// is kept.
pub(crate) fn prepare_dir(dir: &Path, file: &Path) -> std::io::Result<bool> {
    if !dir.exists() {
        fs::create_dir_all(dir)?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    // Other systems cannot open a directory as a file, and order these changes themselves.
    if cfg!(unix) { fs::File::open(dir)?.sync_all() } else { Ok(()) }
}

/// A damaged file may break an assumption of redb's reader, which then panics.
pub(crate) fn guarded(
    path: &Path,
    open: impl FnOnce() -> Result<Database, redb::DatabaseError>,
) -> Result<Database, StoreError> {
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(opened) => opened.map_err(|error| error::database(path, error)),
        Err(_) => Err(error::corrupt(path, "its pages contradict each other")),
    }
}

pub(crate) fn bytes_of(txn: &Txn) -> usize {
    let writes = txn.writes.iter();
    writes.map(|write| write.key.as_str().len() + write.value.as_ref().map_or(0, Bytes::len)).sum()
}

pub(crate) fn queue_permits(bytes: usize) -> usize {
    (bytes / PERMIT_BYTES + 1).min(Semaphore::MAX_PERMITS)
}
