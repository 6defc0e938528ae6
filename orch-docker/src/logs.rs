//! Output of containers, with offsets and within its bound.

use std::{collections::VecDeque, path::PathBuf, pin::Pin};

use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use orch_core::runtime::{FoundState, LogChunk, Logs, RuntimeError};

use crate::{
    container::Container,
    engine::Engine,
    marks::Marks,
    offsets::{KeptBefore, Line, Offsets, length},
    spec,
};

/// Marks are so close that several lie within what the engine keeps.
const MARKS_IN_A_FILE: u64 = 8;

/// How often it is counted what the engine has, because it rotated output away before the reading began. A reading that
/// never agrees passes over some of the output before the mark.
const COUNTS_MAX: usize = 3;

/// The output of `container`, which is marked in the file `marks`. With `follow` a running one's comes as it is written,
/// from the oldest that the engine keeps; in every other case it is the newest within the container's bound.
pub(crate) async fn read(
    engine: &Engine,
    container: &Container,
    marks: PathBuf,
    follow: bool,
) -> Result<Logs, RuntimeError> {
    let live = follow && container.state == FoundState::Running;
    let mut kept = KeptBefore::new(Marks::load(&marks).await);
    let mut output = lines(engine, container, live).peekable();
    if !kept.marks().is_empty() {
        for _ in 0..COUNTS_MAX {
            kept = count(engine, container, *kept.marks()).await?;
            output = lines(engine, container, live).peekable();
            let rotated = !kept.is_empty()
                && matches!(Pin::new(&mut output).peek().await, Some(Ok(line)) if !kept.begins_with(line));
            if !rotated {
                break;
            }
        }
    }
    let offsets = Offsets::new(&kept, spec::log_file_bytes(container.output_limit) / MARKS_IN_A_FILE);
    let start = (output, offsets, marks);
    let mut chunks = stream::try_unfold(start, |(mut lines, mut offsets, path)| async {
        let Some(line) = lines.try_next().await? else { return Ok(None) };
        let chunk = offsets.chunk(line);
        if let Some(marks) = offsets.due()
            && let Err(error) = marks.store(&path).await
        {
            tracing::warn!(path = %path.display(), %error, "how far output has come could not be noted");
        }
        Ok(Some((chunk, (lines, offsets, path))))
    })
    .boxed();
    if live {
        return Ok(chunks);
    }
    let mut newest = Newest::within(container.output_limit);
    while let Some(chunk) = chunks.try_next().await? {
        newest.push(chunk);
    }
    Ok(stream::iter(newest.chunks.into_iter().map(Ok)).boxed())
}

/// How much of what was marked the engine still has.
async fn count(engine: &Engine, container: &Container, marks: Marks) -> Result<KeptBefore, RuntimeError> {
    let mut kept = KeptBefore::new(marks);
    let mut lines = lines(engine, container, false);
    while let Some(line) = lines.try_next().await? {
        kept.count(&line);
    }
    Ok(kept)
}

/// What the engine keeps, from the oldest on.
fn lines(
    engine: &Engine,
    container: &Container,
    follow: bool,
) -> BoxStream<'static, Result<Line, RuntimeError>> {
    let operation = format!("read the output of attempt {}", container.attempt);
    let options = LogsOptionsBuilder::default().follow(follow).stdout(true).stderr(true).timestamps(true);
    engine
        .watched(engine.docker.logs(&container.id, Some(options.tail("all").build())))
        .map_ok(Line::read)
        .map_err(move |error| error.into_runtime(&operation))
        .boxed()
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use orch_core::runtime::OutputStream;

    use super::*;

    fn kept(limit: u64, texts: &[&'static str]) -> Vec<(u64, Bytes)> {
        let (mut offset, mut newest) = (0, Newest::within(limit));
        for text in texts {
            let data = Bytes::from_static(text.as_bytes());
            newest.push(LogChunk { stream: OutputStream::Stdout, offset, data });
            offset += length(&Bytes::from_static(text.as_bytes()));
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
}
