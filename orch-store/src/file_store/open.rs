//! Opening a file: its directory, its name on the disk, and work that blocks.

use std::{io, path::Path};

use orch_base::files;
use orch_core::store::StoreError;

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

/// Makes the directory where it is missing, and its name durable.
pub(crate) fn prepare_dir(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        std::fs::create_dir_all(dir)?;
        files::sync_dir(files::directory_of(dir))?;
    }
    Ok(())
}

/// Makes the file, empty, where it is missing. Nobody but its owner may read it. Its name is durable then:
/// without that a power cut may take it, and with it all that is synced into the file.
#[cfg(feature = "sqlite")]
pub(crate) fn prepare_file(file: &Path) -> io::Result<()> {
    match files::private().write(true).create_new(true).open(file) {
        Ok(_) => files::sync_dir(files::directory_of(file)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// True if `store` has its file already. One without content is damage and not a new store: that gets its
/// name once it has content.
pub(crate) fn is_there(store: &'static str, file: &Path) -> Result<bool, StoreError> {
    use super::error::{corrupt, opening};
    match std::fs::metadata(file) {
        Ok(found) if found.len() == 0 => Err(corrupt(file, "it is empty, which a new store never is")),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(opening(store, file, error)),
    }
}
