//! Both outputs of the program: pipes that are copied into segments, files that are named by the stream and
//! by the offset of their first byte. Both streams together stay within a limit; beyond it the oldest segment
//! of the larger stream is deleted. Output that the disk does not accept is dropped, and shows as a gap: no
//! program waits for a full disk.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

const NAMES: [&str; 2] = ["stdout", "stderr"];
/// Bytes that are copied at a time.
const CHUNK: usize = 32 << 10;
/// Number of segments that make up the limit. At most one of them is missing from the output that may be
/// kept.
const SEGMENTS: u64 = 16;
/// Minimum size of a segment, in bytes: smaller ones would be more file names than content.
const SEGMENT_MIN: u64 = 512;
const STACK: usize = 64 << 10;
/// Bytes of the mark that ends a copy. The kernel writes as few into a pipe atomically.
const MARK: usize = 16;

/// Threads that copy the output. The launcher holds write ends of its own, so that a copy is ended by a mark,
/// no matter which processes still hold the pipe.
pub(crate) struct Copies {
    writers: [PipeWriter; 2],
    inodes: [u64; 2],
    threads: Vec<JoinHandle<()>>,
    end: Arc<End>,
}

/// End of a copy once the program has ended: a mark in the pipe, behind everything that the program wrote.
struct End {
    mark: [u8; MARK],
    /// Set before the mark is written. Until then the output is not searched for it.
    marked: AtomicBool,
}

impl Copies {
    pub(crate) fn begin(dir: &Path, limit: u64) -> io::Result<Self> {
        let ((stdout, stdout_writer), (stderr, stderr_writer)) = (io::pipe()?, io::pipe()?);
        let writers = [stdout_writer, stderr_writer];
        let mut inodes = [0; 2];
        for (inode, writer) in inodes.iter_mut().zip(&writers) {
            *inode = File::from(OwnedFd::from(writer.try_clone()?)).metadata()?.ino();
        }
        let random = || RandomState::new().build_hasher().finish().to_ne_bytes();
        let mut mark = [0; MARK];
        for half in mark.chunks_exact_mut(8) {
            half.copy_from_slice(&random());
        }
        let end = Arc::new(End { mark, marked: AtomicBool::new(false) });
        let kept = Arc::new(Mutex::new(Kept::new(dir, limit)));
        let mut threads = Vec::new();
        for (stream, reader) in [stdout, stderr].into_iter().enumerate() {
            let (kept, end) = (Arc::clone(&kept), Arc::clone(&end));
            let thread = thread::Builder::new().stack_size(STACK);
            threads.push(thread.spawn(move || copy(reader, stream, &kept, &end))?);
        }
        Ok(Self { writers, inodes, threads, end })
    }

    /// Write ends for the program.
    pub(crate) fn writers(&self) -> io::Result<[PipeWriter; 2]> {
        let [stdout, stderr] = &self.writers;
        Ok([stdout.try_clone()?, stderr.try_clone()?])
    }

    pub(crate) fn inodes(&self) -> [u64; 2] {
        self.inodes
    }

    /// Returns when everything that was written until now is in the files.
    pub(crate) fn finish(mut self) {
        self.end.marked.store(true, Ordering::SeqCst);
        for writer in &mut self.writers {
            // The program may have made its end non-blocking, which is this end too.
            while matches!(writer.write(&self.end.mark), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            {
                thread::sleep(Duration::from_millis(1));
            }
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn copy(mut pipe: PipeReader, stream: usize, kept: &Mutex<Kept>, end: &End) {
    let mut buffer = vec![0; CHUNK];
    // Bytes at the beginning of the buffer that may be the first part of the mark.
    let mut held = 0;
    loop {
        let count = match pipe.read(&mut buffer[held..]) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let data = &buffer[..held + count];
        let (output, ended) = match end.marked.load(Ordering::SeqCst) {
            false => (data, false),
            true => before_mark(data, &end.mark),
        };
        kept.lock().unwrap_or_else(PoisonError::into_inner).write(stream, output);
        if ended {
            return;
        }
        let (from, to) = (output.len(), data.len());
        buffer.copy_within(from..to, 0);
        held = to - from;
    }
}

/// Part of the data that is certainly output, and whether the mark follows it.
fn before_mark<'a>(data: &'a [u8], mark: &[u8; MARK]) -> (&'a [u8], bool) {
    if let Some(at) = data.windows(MARK).position(|window| window == mark) {
        return (&data[..at], true);
    }
    let held = (1..MARK).rev().find(|length| data.ends_with(&mark[..*length])).unwrap_or(0);
    (&data[..data.len() - held], false)
}

/// Retained output of both streams.
struct Kept {
    dir: PathBuf,
    limit: u64,
    segment: u64,
    streams: [Stream; 2],
}

#[derive(Default)]
struct Stream {
    /// Offset and length of each segment.
    segments: VecDeque<(u64, u64)>,
    /// Last segment, while it grows.
    file: Option<File>,
    /// Bytes of the stream so far.
    end: u64,
}

impl Stream {
    fn kept(&self) -> u64 {
        self.segments.iter().map(|(_, length)| length).sum()
    }
}

impl Kept {
    fn new(dir: &Path, limit: u64) -> Self {
        let segment = (limit / SEGMENTS).max(SEGMENT_MIN).min(limit);
        Self { dir: dir.into(), limit, segment, streams: Default::default() }
    }

    fn write(&mut self, stream: usize, data: &[u8]) {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let (too_old, mut data) = data.split_at(data.len().saturating_sub(limit));
        if !too_old.is_empty() {
            self.skip(stream, too_old.len());
        }
        while !data.is_empty() {
            let (piece, rest) = data.split_at(data.len().min(self.room(stream)));
            self.make_space(piece.len() as u64);
            if self.append(stream, piece).is_err() {
                self.skip(stream, piece.len());
            }
            data = rest;
        }
    }

    /// Bytes that fit into the current segment.
    fn room(&self, stream: usize) -> usize {
        let stream = &self.streams[stream];
        let used = match (&stream.file, stream.segments.back()) {
            (Some(_), Some((_, length))) if *length < self.segment => *length,
            _ => 0,
        };
        usize::try_from(self.segment - used).unwrap_or(usize::MAX)
    }

    fn make_space(&mut self, bytes: u64) {
        loop {
            let [stdout, stderr] = [0, 1].map(|stream: usize| self.streams[stream].kept());
            if stdout + stderr + bytes <= self.limit {
                return;
            }
            let larger = usize::from(stderr > stdout);
            let stream = &mut self.streams[larger];
            let Some((start, _)) = stream.segments.pop_front() else { return };
            if stream.segments.is_empty() {
                stream.file = None;
            }
            let _ = fs::remove_file(self.dir.join(name(larger, start)));
        }
    }

    fn append(&mut self, number: usize, piece: &[u8]) -> io::Result<()> {
        let stream = &mut self.streams[number];
        if stream.segments.back().is_none_or(|(_, length)| *length >= self.segment) {
            stream.file = None;
        }
        let file = match &mut stream.file {
            Some(file) => file,
            file => {
                let path = self.dir.join(name(number, stream.end));
                let file = file.insert(OpenOptions::new().append(true).create_new(true).open(path)?);
                stream.segments.push_back((stream.end, 0));
                file
            }
        };
        let written = file.write_all(piece);
        // Part of the write may have succeeded.
        let length = match &written {
            Ok(()) => piece.len() as u64 + stream.segments.back().map_or(0, |(_, length)| *length),
            Err(_) => file.metadata().map_or(0, |found| found.len()),
        };
        if let Some(segment) = stream.segments.back_mut() {
            segment.1 = length;
        }
        if length == 0 {
            // Otherwise a full disk would fill with empty files.
            stream.segments.pop_back();
            let _ = fs::remove_file(self.dir.join(name(number, stream.end)));
        }
        written?;
        stream.end += piece.len() as u64;
        Ok(())
    }

    /// Skips output that is dropped, which leaves a gap.
    fn skip(&mut self, stream: usize, bytes: usize) {
        let stream = &mut self.streams[stream];
        stream.file = None;
        stream.end += bytes as u64;
    }
}

fn name(stream: usize, start: u64) -> String {
    format!("{}-{start}", NAMES[stream])
}
