//! Offsets of output, recovered from stored log offsets where the engine has rotated the beginning away.

use bollard::container::LogOutput;
use bytes::Bytes;
use orch_core::runtime::{LogChunk, OutputStream};

use crate::{
    clock::EngineTime,
    log_offsets::{LogOffset, LogOffsets},
};

/// Approximate overhead of a line in the engine's files, in bytes.
const LINE_OVERHEAD: u64 = 100;

/// A line, or a part of a long one, as the engine stored it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) stream: OutputStream,
    at: Option<EngineTime>,
    data: Bytes,
}

impl Line {
    /// Parses the timestamp that the engine puts in front.
    pub(crate) fn read(output: LogOutput) -> Self {
        let stream = match output {
            LogOutput::StdErr { .. } => OutputStream::Stderr,
            _ => OutputStream::Stdout,
        };
        let data = output.into_bytes();
        let stamp = data.iter().position(|byte| *byte == b' ').and_then(|space| {
            let at = EngineTime::parse(std::str::from_utf8(&data[..space]).ok()?)?;
            Some((at, data.slice(space + 1..)))
        });
        match stamp {
            Some((at, data)) => Self { stream, at: Some(at), data },
            None => Self { stream, at: None, data },
        }
    }

    /// Whether the line is complete, so that its time distinguishes it from every other.
    pub(crate) fn is_complete(&self) -> bool {
        self.at.is_some() && self.data.ends_with(b"\n")
    }
}

/// Bytes that the engine still has before each stored log offset, as one reading of its output counts them.
#[derive(Debug)]
pub(crate) struct KeptBefore {
    log_offsets: LogOffsets,
    oldest: Option<Line>,
    /// Whether output was rotated away since it was counted.
    is_stale: bool,
    stdout: Before,
    stderr: Before,
}

#[derive(Debug, Default)]
struct Before {
    bytes: u64,
    has_met_the_mark: bool,
}

impl KeptBefore {
    pub(crate) fn new(log_offsets: LogOffsets) -> Self {
        Self {
            log_offsets,
            oldest: None,
            is_stale: false,
            stdout: Before::default(),
            stderr: Before::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.oldest.is_none()
    }

    /// Whether a reading that begins with this line starts at the same line as the count.
    pub(crate) fn agrees_with(&mut self, first: &Line) -> bool {
        self.is_stale = self.oldest.as_ref().is_some_and(|oldest| oldest != first);
        !self.is_stale
    }

    /// Counts the next line. The line of a log offset is recognised by its time; the order of times is not
    /// used, for the engine's clock may be set back.
    pub(crate) fn count(&mut self, line: &Line) {
        if self.oldest.is_none() {
            self.oldest = Some(line.clone());
        }
        let before = match line.stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        before.has_met_the_mark |=
            line.at.zip(self.log_offsets.of(line.stream)).is_some_and(|(at, mark)| at == mark.at);
        if !before.has_met_the_mark {
            before.bytes += length(&line.data);
        }
    }

    /// Offset of the oldest line of a stream.
    fn start(&self, stream: OutputStream) -> u64 {
        let before = match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        };
        match self.log_offsets.of(stream) {
            Some(mark) if before.has_met_the_mark => mark.begin.saturating_sub(before.bytes),
            // The line of the log offset is rotated away as well. The size of the gap after it is unknown,
            // and later output is counted from there: bytes may be skipped then, and none is repeated.
            Some(mark) => mark.end,
            None => 0,
        }
    }
}

/// Counts the bytes of each stream, and produces log offsets to store periodically.
#[derive(Debug)]
pub(crate) struct Offsets {
    stdout: Count,
    stderr: Count,
    /// Line that the reading began with.
    oldest: Option<Line>,
    /// Bytes written to the engine's files since log offsets were stored.
    written: u64,
    mark_every: u64,
}

#[derive(Debug)]
struct Count {
    start: u64,
    next: u64,
    /// Log offset that this reading began with.
    known: Option<LogOffset>,
    /// Whether the output before the log offset may be incomplete.
    is_stale: bool,
    newest: Option<LogOffset>,
}

impl Offsets {
    pub(crate) fn new(kept: &KeptBefore, mark_every: u64) -> Self {
        let count = |stream| {
            let (start, known) = (kept.start(stream), kept.log_offsets.of(stream));
            Count { start, next: start, known, is_stale: kept.is_stale, newest: known }
        };
        Self {
            stdout: count(OutputStream::Stdout),
            stderr: count(OutputStream::Stderr),
            oldest: None,
            written: 0,
            mark_every,
        }
    }

    /// Whether a reading that begins with this line begins where this one did.
    pub(crate) fn began_with(&self, line: &Line) -> bool {
        self.oldest.as_ref() == Some(line)
    }

    /// Restarts counting from the beginning.
    pub(crate) fn rewind(&mut self) {
        for count in [&mut self.stdout, &mut self.stderr] {
            count.next = count.start;
        }
    }

    pub(crate) fn chunk(&mut self, line: Line) -> LogChunk {
        if self.oldest.is_none() {
            self.oldest = Some(line.clone());
        }
        let Line { stream, at, data } = line;
        let length = length(&data);
        let count = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let offset = count.pass(at);
        count.next = offset + length;
        // A line that is read again does not count towards the next log offset.
        if let Some(at) = at
            && count.newest.is_none_or(|mark| mark.end < count.next)
        {
            let begin = count.newest.filter(|mark| mark.at == at).map_or(offset, |mark| mark.begin);
            count.newest = Some(LogOffset { at, begin, end: count.next });
            self.written += length + LINE_OVERHEAD;
        }
        LogChunk { stream, offset, data }
    }

    /// Newest log offset of each stream.
    pub(crate) fn log_offsets(&self) -> LogOffsets {
        let mut log_offsets = LogOffsets::default();
        *log_offsets.of_mut(OutputStream::Stdout) = self.stdout.newest;
        *log_offsets.of_mut(OutputStream::Stderr) = self.stderr.newest;
        log_offsets
    }

    /// Log offsets to store, when enough was written since the last ones.
    pub(crate) fn due(&mut self) -> Option<LogOffsets> {
        if self.written < self.mark_every {
            return None;
        }
        self.written = 0;
        Some(self.log_offsets())
    }
}

impl Count {
    /// Offset of a line. At the line of the log offset it is known, whatever was rotated away before or
    /// during the read.
    fn pass(&self, at: Option<EngineTime>) -> u64 {
        match at.zip(self.known) {
            Some((at, mark)) if at == mark.at => self.next.max(mark.begin),
            // The line of the log offset may be rotated away.
            Some((at, mark)) if at > mark.at && self.is_stale => self.next.max(mark.end),
            _ => self.next,
        }
    }
}

pub(crate) fn length(data: &Bytes) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
