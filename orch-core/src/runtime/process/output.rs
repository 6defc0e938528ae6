//! Output files: bounded while they grow, read while they are written.

use std::{fs::File, io, os::unix::fs::FileExt};

use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};

use super::attempt_dir::AttemptDir;
use crate::runtime::{LogChunk, OutputStream};

pub(super) const STREAMS: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

/// The most bytes of one chunk.
const CHUNK: usize = 64 << 10;

/// Drops the oldest output beyond `limit` bytes of both streams together, from the larger one first. The dropped part
/// becomes a hole in the file: it takes no space, and the program goes on writing where it was.
pub(super) fn trim(dir: &AttemptDir, limit: u64, slack: u64) -> io::Result<()> {
    let [stdout, stderr] = STREAMS.map(|stream| Kept::of(dir, stream));
    let [stdout, stderr] = [stdout?, stderr?];
    if stdout.len() + stderr.len() <= limit.saturating_add(slack) {
        return Ok(());
    }
    let half = limit / 2;
    for (one, other) in [(&stdout, &stderr), (&stderr, &stdout)] {
        one.keep(dir, limit - other.len().min(half))?;
    }
    Ok(())
}

/// The next output after `position`, moving it on; `None` when there is none now. The position moves over what was
/// dropped.
pub(super) fn read(
    dir: &AttemptDir,
    stream: OutputStream,
    position: &mut u64,
) -> io::Result<Option<LogChunk>> {
    let file = File::open(dir.output(stream))?;
    let offset = dir.output_start(stream).max(*position);
    let mut data = vec![0; CHUNK];
    let count = file.read_at(&mut data, offset)?;
    // What was dropped while it was read reads as zeros: look where the output begins only after reading.
    let begin =
        usize::try_from(dir.output_start(stream).saturating_sub(offset)).unwrap_or(usize::MAX).min(count);
    *position = offset + count as u64;
    if begin == count {
        return Ok(None);
    }
    data.truncate(count);
    let data = Bytes::from(data).slice(begin..);
    Ok(Some(LogChunk { stream, offset: offset + begin as u64, data }))
}

struct Kept {
    stream: OutputStream,
    start: u64,
    end: u64,
}

impl Kept {
    fn of(dir: &AttemptDir, stream: OutputStream) -> io::Result<Self> {
        let end = std::fs::metadata(dir.output(stream))?.len();
        Ok(Self { stream, start: dir.output_start(stream).min(end), end })
    }

    fn len(&self) -> u64 {
        self.end - self.start
    }

    fn keep(&self, dir: &AttemptDir, newest: u64) -> io::Result<()> {
        let start = self.end.saturating_sub(newest);
        if start <= self.start {
            return Ok(());
        }
        // First say so, then do it: nobody may read the hole as output.
        dir.set_output_start(self.stream, start)?;
        let file = File::options().write(true).open(dir.output(self.stream))?;
        fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, start)?;
        Ok(())
    }
}
