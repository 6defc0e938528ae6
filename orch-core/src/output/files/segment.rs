//! A segment: one append-only file of records.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::record::{HEADER, Header, size_of_record};
use crate::output::OutputError;

/// Magic bytes of a segment. The last one is the version.
const MAGIC: [u8; 8] = *b"orchout\x02";
/// Magic bytes of a segment whose records have no times. Records are the same apart from that; none with a
/// time is added, so that the version that wrote it can read all of it.
const MAGIC_TIMELESS: [u8; 8] = *b"orchout\x01";

/// Bytes before the first record.
pub(super) const START: u64 = MAGIC.len() as u64;

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Arc<File>,
    pub(super) path: PathBuf,
    /// Offset of the next record.
    pub(super) size: u64,
    /// Bytes of records that are still in the index.
    pub(super) live: u64,
    /// Something may not be on the disk yet.
    pub(super) dirty: bool,
    /// It is of this version, and takes its records.
    pub(super) current: bool,
    /// Bytes that the disk still takes, for tests.
    #[cfg(test)]
    pub(super) capacity: Option<Arc<std::sync::atomic::AtomicU64>>,
}

/// Location of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) segment: u64,
    pub(super) at: u64,
}

/// Content found in a file with the name of a segment.
pub(super) enum Found {
    Segment(Segment, Vec<(u64, Header)>),
    /// It was not written to yet.
    Empty,
    /// Of a newer version, or nothing of ours.
    Foreign,
}

/// The number in the name of a segment.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".out")?;
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok())?
}

pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.out"))
}

impl Segment {
    /// Makes a new one.
    pub(super) fn create(dir: &Path, number: u64) -> Result<Self, OutputError> {
        let path = path_of(dir, number);
        let make = || {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            let begun = file.write_all_at(&MAGIC, 0).and_then(|()| File::open(dir)?.sync_all());
            if begun.is_err() {
                let _ = fs::remove_file(&path);
            }
            begun.map(|()| file)
        };
        let file = make().map_err(OutputError::file("making", &path))?;
        Ok(Self::from_file(file, path, START))
    }

    /// Reads the headers of one that is there. Bytes after the last complete record are not part of it. With
    /// `data` the chunks are checked as well.
    pub(super) fn open(path: &Path, data: bool) -> io::Result<Found> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = file.metadata()?.len();
        let mut magic = [0; MAGIC.len()];
        match file.read_exact_at(&mut magic, 0) {
            Ok(()) if magic == MAGIC || magic == MAGIC_TIMELESS => {}
            Ok(()) => return Ok(Found::Foreign),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Found::Empty),
            Err(error) => return Err(error),
        }
        let mut segment = Self { current: magic == MAGIC, ..Self::from_file(file, path.into(), len) };
        let headers = segment.headers(data)?;
        segment.size = headers.last().map_or(START, |(at, header)| at + header.size());
        if segment.size < len {
            tracing::warn!(
                path = %path.display(), kept = segment.size, cut = len - segment.size,
                "the end of a file of output is incomplete; leaving it out"
            );
        }
        Ok(Found::Segment(segment, headers))
    }

    fn from_file(file: File, path: PathBuf, size: u64) -> Self {
        Self {
            file: Arc::new(file),
            path,
            size,
            live: 0,
            dirty: false,
            current: true,
            #[cfg(test)]
            capacity: None,
        }
    }

    /// The headers of all complete records, with their offsets.
    pub(super) fn headers(&self, data: bool) -> io::Result<Vec<(u64, Header)>> {
        let (mut headers, mut at) = (Vec::new(), START);
        while at + HEADER as u64 <= self.size {
            let mut bytes = [0; HEADER];
            self.file.read_exact_at(&mut bytes, at)?;
            let Some(header) = Header::decode(&bytes) else { break };
            if header.size() > self.size - at || data && self.data(at, &header)?.is_none() {
                break;
            }
            headers.push((at, header));
            at += header.size();
        }
        Ok(headers)
    }

    /// The chunk of a record; `None` when it is damaged.
    fn data(&self, at: u64, header: &Header) -> io::Result<Option<Vec<u8>>> {
        let mut data = vec![0; header.len as usize];
        self.file.read_exact_at(&mut data, at + HEADER as u64)?;
        Ok(header.is_of(&data).then_some(data))
    }

    /// A complete record as it is in the file.
    pub(super) fn raw(&self, at: u64, header: &Header) -> io::Result<Vec<u8>> {
        let mut record = vec![0; HEADER + header.len as usize];
        self.file.read_exact_at(&mut record, at)?;
        Ok(record)
    }

    /// Adds records. When that fails, none of them is part of the segment.
    pub(super) fn append(&mut self, records: &[u8]) -> Result<(), OutputError> {
        self.dirty = true;
        self.write(records).map_err(OutputError::file("writing to", &self.path))?;
        self.size += records.len() as u64;
        Ok(())
    }

    fn write(&self, records: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(capacity) = &self.capacity {
            use std::sync::atomic::Ordering;
            let left = capacity.load(Ordering::SeqCst);
            if left < records.len() as u64 {
                self.file.write_all_at(&records[..usize::try_from(left).unwrap()], self.size)?;
                return Err(ErrorKind::StorageFull.into());
            }
            capacity.fetch_sub(records.len() as u64, Ordering::SeqCst);
        }
        self.file.write_all_at(records, self.size)
    }

    /// Removes what follows the last complete record. Nothing may be written behind a torn one.
    pub(super) fn cut(&self) -> io::Result<()> {
        self.file.set_len(self.size)
    }

    pub(super) fn sync(&mut self) -> Result<(), OutputError> {
        if self.dirty {
            self.file.sync_data().map_err(OutputError::file("syncing", &self.path))?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Bytes of records that are no longer in the index.
    pub(super) fn dead(&self) -> u64 {
        self.size - START - self.live
    }
}

/// The bytes of a chunk in a file; `None` when they are not those that were written.
pub(super) fn read_chunk(file: &File, at: u64, bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut record = vec![0; usize::try_from(size_of_record(bytes)).map_err(io::Error::other)?];
    match file.read_exact_at(&mut record, at) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let Some(header) = record.first_chunk().and_then(Header::decode) else { return Ok(None) };
    let data = record.split_off(HEADER);
    Ok(header.is_of(&data).then_some(data))
}
