//! The files of a log: segments that are written at the end only, and removed as a whole.

use std::{
    collections::VecDeque,
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use orch_base::files;
use parking_lot::Mutex;

use super::{
    frame::{self, FRAME_HEAD_BYTES, HEAD_BYTES, MAGIC, Record},
    index::{Index, Location},
};
use crate::codec::{Decode as _, Input};
use crate::raft::types::{Entry, LogId, Vote};

const PREFIX: &str = "log-";
/// A file grows by so many zeros at a time: a sync that does not have to note a new length takes half as
/// long.
const GROW_BYTES: u64 = 1 << 20;

/// Operations of a disk, so that tests can let it fail.
pub(super) trait Disk: Send + fmt::Debug {
    fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// The disk as it is.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {}

/// Settings of the log's files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// The member that it belongs to.
    pub(super) owner: u64,
    /// Entries are synced before they count.
    pub(super) sync: bool,
    pub(super) segment_bytes: u64,
}

/// A file of the log that is full.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    /// The greatest index of an entry that was ever written to it.
    greatest: Option<u64>,
}

/// Writes the log. After the first failure it writes no more: what follows a gap would be lost.
#[derive(Debug)]
pub(super) struct Writer {
    directory: PathBuf,
    manner: Manner,
    disk: Box<dyn Disk>,
    full: VecDeque<Segment>,
    active: Segment,
    file: Arc<Mutex<File>>,
    number: u64,
    /// Offset of the next frame, and length of the file already.
    end: u64,
    reach: u64,
    unsynced: bool,
    vote: Option<Vote>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    committed_written: Option<LogId>,
    failed: Option<String>,
    _lock: File,
}

impl Writer {
    /// Reads the log in `directory` into `index` and goes on at its end.
    pub(super) fn open(
        directory: &Path,
        manner: Manner,
        mut disk: Box<dyn Disk>,
        index: &mut Index,
    ) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let lock = lock(directory)?;
        let mut numbers = segments(directory)?;
        // A crash while a file was begun: nothing was written to it yet.
        if let Some(last) = numbers.last().copied()
            && fs::metadata(path_of(directory, last))?.len() < HEAD_BYTES as u64
        {
            fs::remove_file(path_of(directory, last))?;
            numbers.pop();
        }
        let mut full = VecDeque::new();
        for (at, number) in numbers.iter().enumerate() {
            let last = at + 1 == numbers.len();
            full.push_back(read_segment(path_of(directory, *number), manner.owner, last, index)?);
        }
        index.loaded().map_err(|_| {
            let what = format!("{}: the beginning of the log is missing", directory.display());
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        let number = numbers.last().map_or(0, |number| number + 1);
        let path = path_of(directory, number);
        let file = create(&mut *disk, directory, &path, manner.owner)?;
        let mut writer = Self {
            directory: directory.into(),
            manner,
            disk,
            full,
            active: Segment { path, greatest: None },
            file,
            number,
            end: HEAD_BYTES as u64,
            reach: HEAD_BYTES as u64,
            unsynced: false,
            vote: index.vote,
            purged: index.purged,
            committed: index.committed,
            committed_written: None,
            failed: None,
            _lock: lock,
        };
        writer.begin_segment()?;
        Ok(writer)
    }

    /// Writes entries, and syncs them where that is the manner. Says where they are.
    pub(super) fn append(&mut self, entries: &[Entry]) -> io::Result<Vec<Location>> {
        self.guarded(|writer| {
            if writer.end >= writer.manner.segment_bytes {
                writer.roll()?;
            }
            let (mut bytes, mut locations) = (Vec::new(), Vec::with_capacity(entries.len()));
            for entry in entries {
                let offset = writer.end + bytes.len() as u64;
                let length = frame::put(&Record::Entry(entry.clone()), &mut bytes);
                locations.push(Location { file: writer.file.clone(), offset, length });
                writer.active.greatest = writer.active.greatest.max(Some(entry.log_id.index));
            }
            writer.put_committed(&mut bytes);
            writer.write(&bytes)?;
            if writer.manner.sync {
                writer.sync_now()?;
            }
            Ok(locations)
        })
    }

    /// Votes are synced in every manner: a member that forgets one may vote twice.
    pub(super) fn vote(&mut self, vote: Vote) -> io::Result<()> {
        self.guarded(|writer| {
            writer.vote = Some(vote);
            writer.record(&Record::Vote(vote))?;
            writer.sync_now()
        })
    }

    pub(super) fn truncate(&mut self, index: u64) -> io::Result<()> {
        self.guarded(|writer| {
            writer.record(&Record::Truncated(index))?;
            if writer.manner.sync { writer.sync_now() } else { Ok(()) }
        })
    }

    /// Notes what is purged and removes the files that hold nothing else.
    pub(super) fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.guarded(|writer| {
            writer.purged = Some(upto);
            writer.record(&Record::Purged(upto))?;
            writer.sync_now()?;
            while let Some(first) = writer.full.front()
                && first.greatest.is_none_or(|greatest| greatest <= upto.index)
            {
                fs::remove_file(&first.path)?;
                writer.full.pop_front();
            }
            Ok(())
        })
    }

    /// To be written with whatever comes next: it only saves time after a restart.
    pub(super) fn committed(&mut self, committed: Option<LogId>) {
        self.committed = committed;
    }

    /// Syncs what was written since the last time.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.guarded(|writer| {
            let mut bytes = Vec::new();
            writer.put_committed(&mut bytes);
            writer.write(&bytes)?;
            if writer.unsynced { writer.sync_now() } else { Ok(()) }
        })
    }

    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        if let Some(failed) = &self.failed {
            return Err(io::Error::other(format!("the log failed before: {failed}")));
        }
        let result = work(self);
        if let Err(error) = &result {
            self.failed = Some(error.to_string());
        }
        result
    }

    fn record(&mut self, record: &Record) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame::put(record, &mut bytes);
        self.put_committed(&mut bytes);
        self.write(&bytes)
    }

    fn put_committed(&mut self, bytes: &mut Vec<u8>) {
        if self.committed != self.committed_written
            && let Some(committed) = self.committed
        {
            frame::put(&Record::Committed(committed), bytes);
            self.committed_written = self.committed;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut file = self.file.lock();
        let end = self.end + bytes.len() as u64;
        if self.manner.sync && end > self.reach {
            let zeros = vec![0; usize::try_from(end - self.reach + GROW_BYTES).map_err(io::Error::other)?];
            file.seek(SeekFrom::Start(self.reach))?;
            self.disk.write(&mut file, &zeros)?;
            self.reach += zeros.len() as u64;
        }
        file.seek(SeekFrom::Start(self.end))?;
        self.disk.write(&mut file, bytes)?;
        self.end = end;
        self.reach = self.reach.max(end);
        self.unsynced = true;
        Ok(())
    }

    fn sync_now(&mut self) -> io::Result<()> {
        let file = self.file.lock();
        self.disk.sync(&file)?;
        self.unsynced = false;
        Ok(())
    }

    /// Ends this file and begins the next.
    fn roll(&mut self) -> io::Result<()> {
        {
            let file = self.file.lock();
            file.set_len(self.end)?;
            self.disk.sync(&file)?;
        }
        let path = path_of(&self.directory, self.number + 1);
        self.file = create(&mut *self.disk, &self.directory, &path, self.manner.owner)?;
        self.number += 1;
        self.full.push_back(std::mem::replace(&mut self.active, Segment { path, greatest: None }));
        (self.end, self.reach) = (HEAD_BYTES as u64, HEAD_BYTES as u64);
        self.begin_segment()
    }

    /// Records that outlive the files before this one.
    fn begin_segment(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        for record in [self.vote.map(Record::Vote), self.purged.map(Record::Purged)].into_iter().flatten() {
            frame::put(&record, &mut bytes);
        }
        self.committed_written = None;
        self.put_committed(&mut bytes);
        self.write(&bytes)?;
        self.sync_now()
    }
}

/// Refuses a second process on the directory.
fn lock(directory: &Path) -> io::Result<File> {
    let path = directory.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("another member uses {}", directory.display()),
        )),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{PREFIX}{number:020}"))
}

fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).map(str::parse);
        if let Some(Ok(number)) = number {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn create(disk: &mut dyn Disk, directory: &Path, path: &Path, owner: u64) -> io::Result<Arc<Mutex<File>>> {
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    disk.write(&mut file, &frame::head(owner))?;
    file.sync_all()?;
    files::sync_dir(directory)?;
    Ok(Arc::new(Mutex::new(file)))
}

/// Reads one file. In the last one a frame that is not whole ends the log, and is cut off with all that
/// follows.
fn read_segment(path: PathBuf, owner: u64, last: bool, index: &mut Index) -> io::Result<Segment> {
    let corrupt =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()));
    let bytes = Bytes::from(fs::read(&path)?);
    let mut head = Input(bytes.slice(..bytes.len().min(HEAD_BYTES)));
    if head.take(MAGIC.len()).ok().as_deref() != Some(MAGIC) {
        return Err(corrupt("this is not a log of this version"));
    }
    if head.u64() != Ok(owner) {
        return Err(corrupt("this is the log of another member"));
    }
    let file = Arc::new(Mutex::new(OpenOptions::new().read(true).write(true).open(&path)?));
    let (mut sound, mut greatest) = (HEAD_BYTES, None);
    while let Some(content) = frame::next(&bytes.slice(sound..)) {
        let length = FRAME_HEAD_BYTES + content.len();
        match Record::from_bytes(content).map_err(|error| corrupt(&error.to_string()))? {
            Record::Entry(entry) => {
                greatest = greatest.max(Some(entry.log_id.index));
                // A file before this one that was only partly purged.
                if index.purged.is_none_or(|purged| entry.log_id.index > purged.index) {
                    let location = Location { file: file.clone(), offset: sound as u64, length };
                    index.push(entry, Some(location)).map_err(|_| corrupt("entries are missing"))?;
                }
            }
            Record::Vote(vote) => index.vote = Some(vote),
            Record::Committed(log_id) => index.committed = Some(log_id),
            Record::Truncated(from) => index.truncate(from),
            Record::Purged(upto) => index.purge(upto),
        }
        sound += length;
    }
    if bytes[sound..].iter().any(|byte| *byte != 0) && !last {
        return Err(corrupt("it is damaged, and not at the end of the log"));
    }
    if last {
        let file = file.lock();
        file.set_len(sound as u64)?;
        file.sync_all()?;
    }
    Ok(Segment { path, greatest })
}
