//! Offsets of output, found again by marks where the engine no longer has the beginning.

use bollard::container::LogOutput;
use bytes::Bytes;
use orch_core::runtime::{LogChunk, OutputStream};

use crate::{
    clock::EngineTime,
    marks::{Mark, Marks},
};

/// What the engine's files hold beside the bytes of a line, roughly.
const LINE_OVERHEAD: u64 = 100;

/// A line, or a part of a long one, as the engine kept it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) stream: OutputStream,
    at: Option<EngineTime>,
    data: Bytes,
}

impl Line {
    /// Takes the time off that the engine put in front.
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
}

/// How many bytes before its mark the engine still has of each stream.
#[derive(Debug)]
pub(crate) struct KeptBefore {
    marks: Marks,
    oldest: Option<Line>,
    stdout: u64,
    stderr: u64,
}

impl KeptBefore {
    pub(crate) fn new(marks: Marks) -> Self {
        Self { marks, oldest: None, stdout: 0, stderr: 0 }
    }

    pub(crate) fn marks(&self) -> &Marks {
        &self.marks
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.oldest.is_none()
    }

    pub(crate) fn begins_with(&self, line: &Line) -> bool {
        self.oldest.as_ref() == Some(line)
    }

    pub(crate) fn count(&mut self, line: &Line) {
        if self.oldest.is_none() {
            self.oldest = Some(line.clone());
        }
        if line.at.zip(self.marks.of(line.stream)).is_some_and(|(at, mark)| at < mark.at) {
            *match line.stream {
                OutputStream::Stdout => &mut self.stdout,
                OutputStream::Stderr => &mut self.stderr,
            } += length(&line.data);
        }
    }
}

/// Counts the bytes of each stream, and marks the place now and then.
#[derive(Debug)]
pub(crate) struct Offsets {
    stdout: Count,
    stderr: Count,
    /// What was written to the engine's files since the last mark.
    written: u64,
    mark_every: u64,
}

#[derive(Debug)]
struct Count {
    next: u64,
    /// The mark that this reading began with.
    known: Option<Mark>,
    newest: Option<Mark>,
}

impl Offsets {
    pub(crate) fn new(kept: &KeptBefore, mark_every: u64) -> Self {
        let count = |stream, before| {
            let known = kept.marks.of(stream);
            let next = known.map_or(0, |mark: Mark| mark.begin.saturating_sub(before));
            Count { next, known, newest: known }
        };
        Self {
            stdout: count(OutputStream::Stdout, kept.stdout),
            stderr: count(OutputStream::Stderr, kept.stderr),
            written: 0,
            mark_every,
        }
    }

    pub(crate) fn chunk(&mut self, line: Line) -> LogChunk {
        let Line { stream, at, data } = line;
        let length = length(&data);
        self.written += length + LINE_OVERHEAD;
        let count = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let offset = count.pass(at);
        count.next = offset + length;
        if let Some(at) = at {
            let begin = count.newest.filter(|mark| mark.at == at).map_or(offset, |mark| mark.begin);
            // A second reading passes what is marked already.
            if count.newest.is_none_or(|mark| mark.at <= at) {
                count.newest = Some(Mark { at, begin, end: count.next });
            }
        }
        LogChunk { stream, offset, data }
    }

    /// Marks to keep, when enough was written since the last ones.
    pub(crate) fn due(&mut self) -> Option<Marks> {
        if self.written < self.mark_every {
            return None;
        }
        self.written = 0;
        let mut marks = Marks::default();
        *marks.of_mut(OutputStream::Stdout) = self.stdout.newest;
        *marks.of_mut(OutputStream::Stderr) = self.stderr.newest;
        Some(marks)
    }
}

impl Count {
    /// The offset of a line. At the mark it is known, whatever was rotated away before or while this is read. Where that
    /// is gone as well, nobody knows how much is missing after it, and what follows counts from there: bytes may be
    /// passed over then, and none is repeated.
    fn pass(&self, at: Option<EngineTime>) -> u64 {
        match at.zip(self.known) {
            Some((at, mark)) if at > mark.at => self.next.max(mark.end),
            Some((at, mark)) if at == mark.at => self.next.max(mark.begin),
            _ => self.next,
        }
    }
}

pub(crate) fn length(data: &Bytes) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
