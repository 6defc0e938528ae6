//! Snapshots: format and files. A file appears under its name only when it is whole and synced.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use openraft::SnapshotMeta;

use super::{
    sessions::Sessions,
    types::{Members, NodeInfo},
};
use crate::codec::{Decode, Encode, Input, Malformed, put_bytes};

pub(super) type Meta = SnapshotMeta<u64, NodeInfo>;

/// First bytes of every snapshot; the digit is the version.
const MAGIC: &[u8; 8] = b"orchrsn1";
const HASH_BYTES: usize = 32;
const PREFIX: &str = "snapshot-";
const UNFINISHED: &str = ".tmp";

/// A snapshot, taken apart.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) meta: Meta,
    pub(super) sessions: Sessions,
    pub(super) machine: Bytes,
}

/// Puts a snapshot together.
pub(super) fn seal(meta: &Meta, sessions: &Sessions, machine: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    meta.last_log_id.encode(&mut head);
    meta.last_membership.encode(&mut head);
    put_bytes(meta.snapshot_id.as_bytes(), &mut head);
    sessions.encode(&mut head);
    let mut out = Vec::with_capacity(MAGIC.len() + 4 + head.len() + machine.len() + HASH_BYTES);
    out.extend(MAGIC);
    put_bytes(&head, &mut out);
    out.extend_from_slice(machine);
    let hash = blake3::hash(&out);
    out.extend(hash.as_bytes());
    out
}

/// Takes a snapshot apart.
pub(super) fn open(bytes: &Bytes) -> Result<Opened, Malformed> {
    let Some(end) = bytes.len().checked_sub(HASH_BYTES).filter(|end| *end >= MAGIC.len()) else {
        return Err(Malformed("it ends too early"));
    };
    if !bytes.starts_with(MAGIC) {
        return Err(Malformed("it is no snapshot of this version"));
    }
    if blake3::hash(&bytes[..end]).as_bytes()[..] != bytes[end..] {
        return Err(Malformed("its checksum is wrong"));
    }
    let mut input = Input(bytes.slice(MAGIC.len()..end));
    let mut head = Input(input.bytes()?);
    let meta = Meta {
        last_log_id: Option::decode(&mut head)?,
        last_membership: Members::decode(&mut head)?,
        snapshot_id: head.text()?,
    };
    let sessions = Sessions::decode(&mut head)?;
    head.end()?;
    Ok(Opened { meta, sessions, machine: input.0 })
}

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
                    let mut file = image.file.lock().unwrap_or_else(PoisonError::into_inner);
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
    sync_directory(directory)?;
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

/// Makes names in a directory survive a power cut.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
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

    fn meta() -> Meta {
        Meta { last_log_id: None, last_membership: Members::default(), snapshot_id: "1".into() }
    }

    #[test]
    fn a_snapshot_reads_as_it_was_written() {
        let bytes = Bytes::from(seal(&meta(), &Sessions::default(), b"state"));
        let opened = open(&bytes).expect("it is whole");
        assert_eq!((opened.meta, &opened.machine[..]), (meta(), &b"state"[..]));
    }

    #[test]
    fn damage_is_found() {
        let bytes = seal(&meta(), &Sessions::default(), b"state");
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(open(&bytes.into()).is_err(), "byte {at}");
        }
        for end in 0..bytes.len() {
            assert!(open(&Bytes::copy_from_slice(&bytes[..end])).is_err(), "cut at {end}");
        }
    }

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
