//! Lock of the one process that works with a directory.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use orch_base::files::private;
use orch_core::store::StoreError;

use super::{
    super::error::{locked, opening},
    error::NAME,
};

/// Name of the file that is locked.
const FILE: &str = "orch.lock";

/// Locks on the file [`FILE`], which earlier versions know, and on the directory itself: the file can be
/// removed from under its lock. Held until dropped.
pub(super) struct DirLock {
    _file: File,
    _dir: Option<File>,
}

impl DirLock {
    /// Takes the lock of `dir`, for the store in `file`.
    pub(super) fn take(dir: &Path, file: &Path) -> Result<Self, StoreError> {
        let failed = |error| opening(NAME, file, error);
        let lock = private().write(true).create(true).truncate(false).open(dir.join(FILE)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _file: lock, _dir: lock_dir(dir).map_err(|()| locked(file))? }),
            Err(TryLockError::WouldBlock) => Err(locked(file)),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

/// `None` where directories cannot be locked, as on some network disks and some systems.
fn lock_dir(dir: &Path) -> Result<Option<File>, ()> {
    let Some(dir) = cfg!(unix).then(|| File::open(dir).ok()).flatten() else { return Ok(None) };
    match dir.try_lock() {
        Ok(()) => Ok(Some(dir)),
        Err(TryLockError::WouldBlock) => Err(()),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}
