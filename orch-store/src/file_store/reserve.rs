//! Reserve of disk space beside a store's file. To delete a record takes space too, so that a store on a full
//! disk could free none by itself. The reserve is given back when a write finds the disk full.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use orch_base::files::private;
use orch_core::store::StoreError;

use super::error::is_full_disk;

/// Size of the reserve: what a transaction of deletes and the log of SQLite take.
const BYTES: usize = 8 << 20;

/// Makes the reserve of `file` unless it is there, and only where as much is free again.
pub(crate) fn keep(file: &Path) {
    let reserve = name(file);
    if reserve.exists() {
        return;
    }
    if let Err(error) = fill(&reserve) {
        let _ = fs::remove_file(&reserve);
        tracing::warn!(path = %reserve.display(), %error, "no disk space is kept for deleting records when it is full");
    }
}

/// Gives the reserve back if `failure` is that of a full disk.
pub(crate) fn release_for(file: &Path, failure: &StoreError) {
    let reserve = name(file);
    if is_full_disk(failure) && fs::remove_file(&reserve).is_ok() {
        tracing::warn!(path = %reserve.display(), "the disk is full; the reserve is given back, for deleting records");
    }
}

fn name(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".reserve");
    name.into()
}

fn fill(reserve: &Path) -> io::Result<()> {
    let mut file = private().write(true).create(true).truncate(true).open(reserve)?;
    // Zeros would take no space on a disk that compresses.
    let mut noise = [0; 64 << 10];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for byte in &mut noise {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state.to_le_bytes()[0];
    }
    for _ in 0..2 * BYTES / noise.len() {
        file.write_all(&noise)?;
    }
    file.set_len(BYTES as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_reserve_is_given_back_for_a_full_disk_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state");
        let size = || fs::metadata(name(&file)).map(|found| found.len()).ok();
        keep(&file);
        assert_eq!(size(), Some(8 << 20));
        let failure = |kind: io::ErrorKind| {
            let cause = Arc::new(super::super::error::Cause::write(&file, io::Error::from(kind)));
            let (store, operation) = ("test", "testing");
            StoreError::Backend { store, operation, retryable: false, outcome_unknown: false, source: cause }
        };
        release_for(&file, &StoreError::Closed);
        release_for(&file, &failure(io::ErrorKind::Other));
        assert!(size().is_some());
        release_for(&file, &failure(io::ErrorKind::StorageFull));
        assert_eq!(size(), None);
    }
}
