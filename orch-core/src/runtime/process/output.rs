//! Reader of output files while the launcher appends to them and deletes old ones.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
};

use bytes::Bytes;

use super::{attempt_dir::AttemptDir, shell};
use crate::runtime::{LogChunk, OutputStream};

pub(super) const STREAMS: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

/// Maximum size of one chunk, in bytes.
const CHUNK: usize = 64 << 10;

/// Current end offsets of both outputs.
pub(super) fn ends(dir: &AttemptDir) -> io::Result<[u64; 2]> {
    let [stdout, stderr] = STREAMS.map(|stream| Ok(segments(dir, stream)?.last().map_or(0, Segment::end)));
    stdout.and_then(|stdout| Ok([stdout, stderr?]))
}

/// Reads the next chunk after `position` and advances it; `None` when there is none now. The position skips
/// output that was dropped.
pub(super) fn read(
    dir: &AttemptDir,
    stream: OutputStream,
    position: &mut u64,
) -> io::Result<Option<LogChunk>> {
    let segments = segments(dir, stream)?;
    for (number, segment) in segments.iter().enumerate() {
        let is_read = segments.get(number + 1).is_some_and(|next| next.start <= *position);
        if is_read {
            continue;
        }
        let offset = segment.start.max(*position);
        let data = match segment.read(offset) {
            // The segment was deleted just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            data => data?,
        };
        // A range that was dropped during the read reads as zeros in a shell's file: look up its begin only
        // after the read.
        let begin = match segment.of_shell {
            true => shell::start(dir, name_of(stream)).saturating_sub(offset),
            false => 0,
        };
        let begin = usize::try_from(begin).unwrap_or(usize::MAX).min(data.len());
        *position = offset + data.len() as u64;
        if begin < data.len() {
            return Ok(Some(LogChunk { stream, offset: offset + begin as u64, data: data.slice(begin..) }));
        }
    }
    Ok(None)
}

struct Segment {
    start: u64,
    path: PathBuf,
    /// Written by a shell: the file begins before `start`, with a hole.
    of_shell: bool,
}

impl Segment {
    fn read(&self, offset: u64) -> io::Result<Bytes> {
        let within = if self.of_shell { offset } else { offset - self.start };
        let mut data = vec![0; CHUNK];
        let count = File::open(&self.path)?.read_at(&mut data, within)?;
        data.truncate(count);
        Ok(data.into())
    }

    fn end(&self) -> u64 {
        let length = fs::metadata(&self.path).map_or(0, |found| found.len());
        if self.of_shell { length } else { self.start + length }
    }
}

/// Retained segments, in order. All but the last one are complete.
fn segments(dir: &AttemptDir, stream: OutputStream) -> io::Result<Vec<Segment>> {
    let (mut found, prefix) = (Vec::new(), name_of(stream));
    let entries = match fs::read_dir(dir.path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else { continue };
        let path = entry.path();
        if rest.is_empty() {
            found.push(Segment { start: shell::start(dir, prefix), path, of_shell: true });
        } else if let Some(start) = rest.strip_prefix('-').and_then(|start| start.parse().ok()) {
            found.push(Segment { start, path, of_shell: false });
        }
    }
    found.sort_by_key(|segment| segment.start);
    Ok(found)
}

pub(super) fn name_of(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}
