//! File of a new store. It is filled in memory and gets its name with its content, so that an empty file of
//! that name is never a new store.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use orch_base::files;
use orch_core::store::StoreError;

use super::{NAME, error::below};
use crate::file_store::error::{Cause, backend, opening};

/// Makes the file with what `fill` puts into it, unless somebody else does at the same time.
pub(crate) fn make(
    path: &Path,
    fill: impl FnOnce(&redb::Database) -> Result<(), redb::Error>,
) -> Result<(), StoreError> {
    let image = Image::default();
    let database = super::open(path, || redb::Builder::new().create_with_backend(image.clone()))?;
    fill(&database).map_err(|error| backend(NAME, "opening", false, Cause::write(path, below(error))))?;
    drop(database);
    match files::create(path, &image.bytes()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(opening(NAME, path, error)),
        _ => Ok(()),
    }
}

/// Content of a file in memory. Clones share it.
#[derive(Clone, Debug, Default)]
struct Image(Arc<Mutex<Vec<u8>>>);

impl Image {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl redb::StorageBackend for Image {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (bytes, at) = (self.bytes(), position(offset)?);
        let found = bytes.get(at..).and_then(|rest| rest.get(..out.len()));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes().resize(position(len)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut bytes, at) = (self.bytes(), position(offset)?);
        let place = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..data.len()));
        place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        Ok(())
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(io::Error::other)
}
