//! Store of snapshots, in memory or in files. A file appears under its name only when it is whole and synced.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use orch_base::files;
use parking_lot::Mutex;

const PREFIX: &str = "snapshot-";
const UNFINISHED: &str = ".tmp";

/// The bytes of a snapshot, wherever they are.
#[derive(Clone, Debug)]
pub(super) enum Image {
    Memory(Bytes),
    File(Arc<ImageFile>),
}

/// An open file: it can be read to its end even when a later snapshot has replaced it.
#[derive(Debug)]
pub(super) struct ImageFile {
    path: PathBuf,
    file: Mutex<File>,
    length: u64,
}

impl Image {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = File::open(&path)?;
        let length = file.metadata()?.len();
        Ok(Self::File(Arc::new(ImageFile { path, file: Mutex::new(file), length })))
    }

    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(image) => image.length,
        }
    }

    /// At most `most` bytes from `offset`.
    pub(super) async fn read(&self, offset: u64, most: usize) -> io::Result<Bytes> {
        let left = self.length().saturating_sub(offset);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(most);
        match self {
            Self::Memory(bytes) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(from..from + count))
            }
            Self::File(image) => {
                let image = image.clone();
                blocking(move || {
                    let mut bytes = vec![0; count];
                    let mut file = image.file.lock();
                    file.seek(SeekFrom::Start(offset))?;
                    file.read_exact(&mut bytes)?;
                    Ok(bytes.into())
                })
                .await
            }
        }
    }

    pub(super) async fn all(&self) -> io::Result<Bytes> {
        self.read(0, usize::MAX).await
    }
}

/// Store of a member's snapshots.
#[derive(Clone, Debug)]
pub(super) enum SnapshotStore {
    Memory,
    Directory(PathBuf),
}

impl SnapshotStore {
    /// Keeps a snapshot up to `index`.
    pub(super) async fn store(&self, index: u64, bytes: Vec<u8>) -> io::Result<Image> {
        match self {
            Self::Memory => Ok(Image::Memory(bytes.into())),
            Self::Directory(directory) => {
                let directory = directory.clone();
                blocking(move || {
                    let path = unfinished(&directory);
                    let mut file = File::create(&path)?;
                    file.write_all(&bytes)?;
                    file.sync_all()?;
                    finish(&directory, &path, index)
                })
                .await
            }
        }
    }

    /// Keeps a snapshot up to `index` that was received.
    pub(super) async fn adopt(&self, index: u64, image: Image) -> io::Result<Image> {
        match (self, image) {
            (Self::Directory(directory), Image::File(file)) => {
                let directory = directory.clone();
                blocking(move || finish(&directory, &file.path, index)).await
            }
            (_, image) => Ok(image),
        }
    }

    /// Destination for a snapshot that is to be received.
    pub(super) async fn receive(&self) -> io::Result<Receiving> {
        match self {
            Self::Memory => Ok(Receiving::Memory(Vec::new())),
            Self::Directory(directory) => {
                let path = unfinished(directory);
                blocking(move || Ok(Receiving::File(File::create(&path)?, path))).await
            }
        }
    }

    /// The latest snapshot. Removes what was not finished and what it made superfluous.
    pub(super) async fn newest(&self) -> io::Result<Option<Image>> {
        let Self::Directory(directory) = self else { return Ok(None) };
        let directory = directory.clone();
        blocking(move || {
            let mut newest: Option<(u64, PathBuf)> = None;
            for entry in fs::read_dir(&directory)? {
                let path = entry?.path();
                if path.to_string_lossy().ends_with(UNFINISHED) {
                    fs::remove_file(&path)?;
                } else if let Some(index) = index_of(&path)
                    && newest.as_ref().is_none_or(|(other, _)| *other < index)
                {
                    newest = Some((index, path));
                }
            }
            let Some((index, path)) = newest else { return Ok(None) };
            remove_before(&directory, index)?;
            Image::open(path).map(Some)
        })
        .await
    }
}

/// A snapshot that is being received.
#[derive(Debug)]
pub(super) enum Receiving {
    Memory(Vec<u8>),
    File(File, PathBuf),
}

impl Receiving {
    pub(super) async fn add(self, bytes: Bytes) -> io::Result<Self> {
        match self {
            Self::Memory(mut all) => {
                all.extend_from_slice(&bytes);
                Ok(Self::Memory(all))
            }
            Self::File(mut file, path) => {
                blocking(move || {
                    file.write_all(&bytes)?;
                    Ok(Self::File(file, path))
                })
                .await
            }
        }
    }

    pub(super) async fn finish(self) -> io::Result<Image> {
        match self {
            Self::Memory(all) => Ok(Image::Memory(all.into())),
            Self::File(file, path) => {
                blocking(move || {
                    file.sync_all()?;
                    Image::open(path)
                })
                .await
            }
        }
    }
}

fn unfinished(directory: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    directory.join(format!("{}{UNFINISHED}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Gives a synced file its name, for good.
fn finish(directory: &Path, from: &Path, index: u64) -> io::Result<Image> {
    let path = directory.join(format!("{PREFIX}{index:020}"));
    fs::rename(from, &path)?;
    files::sync_dir(directory)?;
    remove_before(directory, index)?;
    Image::open(path)
}

fn index_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

fn remove_before(directory: &Path, index: u64) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if index_of(&path).is_some_and(|other| other < index) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Runs blocking disk work on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_snapshot_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = SnapshotStore::Directory(directory.path().into());
        store.store(9, b"nine".to_vec()).await.expect("it is written");
        store.store(10, b"ten".to_vec()).await.expect("it is written");
        drop(store.receive().await.expect("a file is made"));
        let newest = store.newest().await.expect("the directory is read").expect("there is one");
        assert_eq!(newest.all().await.expect("it is read"), b"ten"[..]);
        assert_eq!(fs::read_dir(directory.path()).expect("the directory is read").count(), 1);
    }
}
