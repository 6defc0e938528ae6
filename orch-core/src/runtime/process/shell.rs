//! Output of attempts that an earlier version of `orch` started through a shell: one file for each stream, to
//! which the program writes directly. Such an attempt may still run after an upgrade of `orch`.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
};

use rustix::fs::{FallocateFlags, fallocate};

use super::{
    attempt_dir::AttemptDir,
    output::{STREAMS, name_of},
};

/// Offset at which the retained output begins.
pub(super) fn start(dir: &AttemptDir, stream: &str) -> u64 {
    let text = fs::read_to_string(start_file(dir, stream));
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Drops the oldest output beyond `limit` bytes of both streams together, from the larger one first. The
/// dropped part becomes a hole in the file: it takes no space, and the program continues to write at its
/// offset.
pub(super) fn trim(dir: &AttemptDir, limit: u64) -> io::Result<()> {
    let [stdout, stderr] = STREAMS.map(|stream| Kept::of(dir, name_of(stream)));
    let [stdout, stderr] = [stdout?, stderr?];
    if stdout.len() + stderr.len() <= limit {
        return Ok(());
    }
    for (one, other) in [(&stdout, &stderr), (&stderr, &stdout)] {
        one.keep(dir, limit - other.len().min(limit / 2))?;
    }
    Ok(())
}

struct Kept {
    stream: &'static str,
    start: u64,
    end: u64,
}

impl Kept {
    fn of(dir: &AttemptDir, stream: &'static str) -> io::Result<Self> {
        let end = fs::metadata(dir.path().join(stream))?.len();
        Ok(Self { stream, start: start(dir, stream).min(end), end })
    }

    fn len(&self) -> u64 {
        self.end - self.start
    }

    fn keep(&self, dir: &AttemptDir, newest: u64) -> io::Result<()> {
        let start = self.end.saturating_sub(newest);
        if start <= self.start {
            return Ok(());
        }
        // Record the new begin first, then punch the hole: no reader may take the hole for output.
        let (file, new) =
            (start_file(dir, self.stream), start_file(dir, self.stream).with_extension("start.new"));
        fs::write(&new, start.to_string())?;
        fs::rename(new, file)?;
        let output = File::options().write(true).open(dir.path().join(self.stream))?;
        fallocate(output, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, start)?;
        Ok(())
    }
}

fn start_file(dir: &AttemptDir, stream: &str) -> PathBuf {
    dir.path().join(format!("{stream}.start"))
}
