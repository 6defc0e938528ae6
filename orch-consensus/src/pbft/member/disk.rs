//! Disk of a member's log.

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use orch_base::files;
use orch_core::store::StoreError;
use parking_lot::{Mutex, MutexGuard};

use crate::pbft::core::ids::{Digest, PublicKey};

const LOG: &str = "log";
const NEW_LOG: &str = "log.new";
const LOCK: &str = "lock";
const OWNER: &str = "owner";

/// The log of one member: bytes that grow at the end, or are replaced as a whole. Called from threads that
/// may block; from two at a time only where one of the calls is [`Disk::sync`].
///
/// An implementation MUST: have all that was added before a [`Disk::sync`] began survive a power cut once it
/// returned; replace at once or not at all, and for good, before it returns; add all of the bytes, or fail
/// and leave what was there before to be read.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// All of it.
    ///
    /// # Errors
    /// Any error of the system.
    fn read(&self) -> io::Result<Vec<u8>>;

    /// Cuts it to this length, for good.
    ///
    /// # Errors
    /// Any error of the system.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// Adds to the end.
    ///
    /// # Errors
    /// Any error of the system. The call is repeated after a while.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was added durable.
    ///
    /// # Errors
    /// Any error of the system. The content of the disk is unknown then, and the member stops.
    fn sync(&self) -> io::Result<()>;

    /// Replaces the whole content by this, durably.
    ///
    /// # Errors
    /// Any error of the system. The call is repeated after a while.
    fn replace(&self, bytes: &[u8]) -> io::Result<()>;
}

/// A log in a directory of its own, locked against other processes.
pub struct Directory {
    path: PathBuf,
    log: Mutex<Log>,
    _lock: File,
}

struct Log {
    file: Arc<File>,
    /// Length that is known to be whole. A write that failed may have left a rest behind it.
    length: u64,
    torn: bool,
}

impl Directory {
    /// Opens the directory for this member of this group, and makes it where there is none.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process has it open, [`StoreError::Corrupt`] when it belongs to
    /// another member or group, otherwise what the system says.
    pub fn open(path: impl Into<PathBuf>, group: &Digest, member: &PublicKey) -> Result<Self, StoreError> {
        let path = path.into();
        let failed = |operation| move |error| failed(operation, error);
        std::fs::create_dir_all(&path).map_err(failed("making the directory of the log"))?;
        let lock = lock(&path)?;
        claim(&path, &owner(group, member))?;
        // What a crash left of a replacement that did not happen.
        match std::fs::remove_file(path.join(NEW_LOG)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("removing an unfinished log")(error));
            }
            _ => {}
        }
        let file = open_log(&path.join(LOG)).map_err(failed("opening the log"))?;
        let length = file.metadata().map_err(failed("opening the log"))?.len();
        files::sync_dir(&path).map_err(failed("syncing the directory of the log"))?;
        let log = Mutex::new(Log { file: Arc::new(file), length, torn: false });
        Ok(Self { path, log, _lock: lock })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock()
    }
}

impl Disk for Directory {
    fn read(&self) -> io::Result<Vec<u8>> {
        let log = self.log();
        let (mut bytes, mut file) = (Vec::new(), &*log.file);
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut log = self.log();
        log.file.set_len(bytes)?;
        log.file.sync_all()?;
        (log.length, log.torn) = (bytes, false);
        Ok(())
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut log = self.log();
        if log.torn {
            log.file.set_len(log.length)?;
            log.torn = false;
        }
        log.torn = true;
        (&*log.file).write_all(bytes)?;
        log.torn = false;
        log.length += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let file = self.log().file.clone();
        file.sync_data()
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let new = self.path.join(NEW_LOG);
        let written = write_new(&new, bytes);
        if written.is_err() {
            // It would take up the space that is missing.
            let _ = std::fs::remove_file(&new);
        }
        written?;
        std::fs::rename(&new, self.path.join(LOG))?;
        files::sync_dir(&self.path)?;
        let mut log = self.log();
        let file = open_log(&self.path.join(LOG))?;
        *log = Log { file: Arc::new(file), length: bytes.len() as u64, torn: false };
        Ok(())
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("path", &self.path).finish_non_exhaustive()
    }
}

pub(super) fn failed(operation: &'static str, error: io::Error) -> StoreError {
    StoreError::Backend {
        store: "pbft log",
        operation,
        retryable: false,
        outcome_unknown: false,
        source: Arc::new(error),
    }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let path = path.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|error| failed("opening the lock of the log", error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(format!(
            "{} is held by another process or by an earlier member of this one; two members on one log would break \
             their word",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(failed("locking the log", error)),
    }
}

/// Owner of the log, in words, because people read it when it is refused.
fn owner(group: &Digest, member: &PublicKey) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("group {}\nmember {}\n", hex(&group.0), hex(&member.0))
}

fn claim(path: &Path, owner: &str) -> Result<(), StoreError> {
    let file = path.join(OWNER);
    match std::fs::read_to_string(&file) {
        Ok(found) if found == owner => Ok(()),
        Ok(found) if !found.is_empty() => Err(StoreError::Corrupt(format!(
            "{} is of another member or group: it has\n{found}and this is\n{owner}",
            path.display()
        ))),
        // A crash may have left it empty, before there was a log.
        Ok(_) => {
            write_new(&file, owner.as_bytes()).map_err(|error| failed("naming the owner of the log", error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_new(&file, owner.as_bytes()).map_err(|error| failed("naming the owner of the log", error))
        }
        Err(error) => Err(failed("reading the owner of the log", error)),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: Digest = Digest([1; 32]);
    const MEMBER: PublicKey = PublicKey([2; 32]);

    #[test]
    fn it_keeps_what_was_added_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Directory::open(directory.path(), &GROUP, &MEMBER).unwrap();
        disk.append(b"one").unwrap();
        disk.append(b"two").unwrap();
        assert_eq!(disk.read().unwrap(), b"onetwo");
        disk.replace(b"three").unwrap();
        disk.append(b"four").unwrap();
        disk.sync().unwrap();
        drop(disk);
        let disk = Directory::open(directory.path(), &GROUP, &MEMBER).unwrap();
        assert_eq!(disk.read().unwrap(), b"threefour");
        disk.truncate(5).unwrap();
        disk.append(b"!").unwrap();
        assert_eq!(disk.read().unwrap(), b"three!");
    }

    #[test]
    fn it_is_open_once() {
        let directory = tempfile::tempdir().unwrap();
        let first = Directory::open(directory.path(), &GROUP, &MEMBER).unwrap();
        let refused = Directory::open(directory.path(), &GROUP, &MEMBER).unwrap_err();
        assert!(matches!(&refused, StoreError::Locked(why) if why.contains("lock")), "{refused}");
        drop(first);
        assert!(Directory::open(directory.path(), &GROUP, &MEMBER).is_ok());
    }

    #[test]
    fn that_of_another_member_or_group_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        drop(Directory::open(directory.path(), &GROUP, &MEMBER).unwrap());
        for (group, member) in [(Digest([3; 32]), MEMBER), (GROUP, PublicKey([3; 32]))] {
            let refused = Directory::open(directory.path(), &group, &member).unwrap_err();
            assert!(refused.to_string().contains("another member or group"), "{refused}");
        }
    }
}
