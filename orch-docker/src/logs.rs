//! Output of containers, with offsets and within its bound.

use std::collections::VecDeque;

use bollard::{container::LogOutput, query_parameters::LogsOptionsBuilder};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use orch_core::runtime::{FoundState, LogChunk, Logs, OutputStream, RuntimeError};

use crate::{container::Container, engine::Engine};

/// The output of `container`. With `follow` a running one's comes as it is written, from the oldest that the engine
/// keeps; in every other case it is the newest within the container's bound.
pub(crate) async fn read(engine: &Engine, container: &Container, follow: bool) -> Result<Logs, RuntimeError> {
    let operation = format!("read the output of attempt {}", container.attempt);
    let live = follow && container.state == FoundState::Running;
    let options = LogsOptionsBuilder::default().follow(live).stdout(true).stderr(true).tail("all").build();
    let mut offsets = Offsets::default();
    let mut chunks = engine
        .watched(engine.docker.logs(&container.id, Some(options)))
        .map(move |output| output.map(|output| offsets.chunk(output)))
        .map_err(move |error| error.into_runtime(&operation));
    if live {
        return Ok(chunks.boxed());
    }
    let mut newest = Newest::within(container.output_limit);
    while let Some(chunk) = chunks.try_next().await? {
        newest.push(chunk);
    }
    Ok(stream::iter(newest.chunks.into_iter().map(Ok)).boxed())
}

/// Counts the bytes of each stream.
#[derive(Default)]
struct Offsets {
    stdout: u64,
    stderr: u64,
}

impl Offsets {
    fn chunk(&mut self, output: LogOutput) -> LogChunk {
        let (stream, next) = match output {
            LogOutput::StdErr { .. } => (OutputStream::Stderr, &mut self.stderr),
            _ => (OutputStream::Stdout, &mut self.stdout),
        };
        let data = output.into_bytes();
        let offset = *next;
        *next += length(&data);
        LogChunk { stream, offset, data }
    }
}

/// The newest chunks of both streams together, cut to a number of bytes.
struct Newest {
    chunks: VecDeque<LogChunk>,
    bytes: u64,
    limit: u64,
}

impl Newest {
    fn within(limit: u64) -> Self {
        Self { chunks: VecDeque::new(), bytes: 0, limit }
    }

    fn push(&mut self, chunk: LogChunk) {
        self.bytes += length(&chunk.data);
        self.chunks.push_back(chunk);
        while self.bytes > self.limit {
            let Some(oldest) = self.chunks.front_mut() else { return };
            let excess = self.bytes - self.limit;
            let cut = excess.min(length(&oldest.data));
            oldest.offset += cut;
            oldest.data = oldest.data.slice(usize::try_from(cut).unwrap_or(usize::MAX)..);
            self.bytes -= cut;
            if oldest.data.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

fn length(data: &Bytes) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(limit: u64, texts: &[&'static str]) -> Vec<(u64, Bytes)> {
        let (mut offsets, mut newest) = (Offsets::default(), Newest::within(limit));
        for text in texts {
            newest.push(offsets.chunk(LogOutput::StdOut { message: Bytes::from_static(text.as_bytes()) }));
        }
        newest.chunks.into_iter().map(|chunk| (chunk.offset, chunk.data)).collect()
    }

    #[test]
    fn the_newest_bytes_win_and_offsets_tell_what_is_gone() {
        assert_eq!(kept(100, &["abc", "de"]), [(0, "abc".into()), (3, "de".into())]);
        assert_eq!(kept(4, &["abc", "de"]), [(1, "bc".into()), (3, "de".into())]);
        assert_eq!(kept(1, &["abc", "de"]), [(4, Bytes::from("e"))]);
        assert_eq!(kept(0, &["abc"]), []);
    }

    #[test]
    fn each_stream_counts_for_itself() {
        let mut offsets = Offsets::default();
        offsets.chunk(LogOutput::StdOut { message: "abc".into() });
        let error = offsets.chunk(LogOutput::StdErr { message: "de".into() });
        assert_eq!((error.stream, error.offset), (OutputStream::Stderr, 0));
    }
}
