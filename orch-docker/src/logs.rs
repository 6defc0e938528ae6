//! Output of containers, with offsets and within its bound.

use std::{collections::VecDeque, path::PathBuf, pin::Pin, time::Duration};

use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream, Peekable},
};
use orch_core::runtime::{FoundState, LogChunk, Logs, OutputStream, RuntimeError};

use crate::{
    container::Container,
    engine::Engine,
    identity::Identity,
    log_offsets::LogOffsets,
    offsets::{KeptBefore, Line, Offsets, length},
    spec,
};

/// Number of log offsets per output file, so that several lie within the retained output.
const MARKS_IN_A_FILE: u64 = 8;

/// Maximum number of counts of the engine's output, because it rotated output away before the reading began.
/// A reading that never agrees skips some of the output before the log offset.
const COUNTS_MAX: usize = 3;

/// Pause before following again, when the engine's stream ended while the container runs and had nothing new.
const FOLLOW_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Output of `container`, whose log offsets are in the file `path`. With `follow` the output of a running one
/// is streamed as it is written, from the oldest line that the engine has; in every other case it is the
/// newest within the container's bound.
pub(crate) async fn read(
    engine: &Engine,
    identity: &Identity,
    container: Container,
    path: PathBuf,
    follow: bool,
) -> Result<Logs, RuntimeError> {
    let scope = match container.state {
        FoundState::Running if follow => Scope::Followed,
        FoundState::Running => Scope::Now,
        _ => Scope::Whole,
    };
    let limit = container.output_limit;
    let (engine, identity) = (engine.clone(), identity.clone());
    let reader = Reader::open(engine, identity, container, path, scope).await?;
    let mut chunks = stream::try_unfold(reader, |mut reader| async {
        let chunk = reader.next().await?;
        Ok(chunk.map(|chunk| (chunk, reader)))
    })
    .boxed();
    if scope == Scope::Followed {
        return Ok(chunks);
    }
    let mut newest = Newest::within(limit);
    while let Some(chunk) = chunks.try_next().await? {
        newest.push(chunk);
    }
    Ok(stream::iter(newest.chunks.into_iter().map(Ok)).boxed())
}

type Lines = Pin<Box<Peekable<BoxStream<'static, Result<Line, RuntimeError>>>>>;

/// Reader that delivers a container's output once, however often it has to be requested.
struct Reader {
    engine: Engine,
    identity: Identity,
    container: Container,
    path: PathBuf,
    scope: Scope,
    lines: Lines,
    offsets: Offsets,
    delivered: Delivered,
    /// Whether `lines` had output that was not delivered before.
    has_added: bool,
    /// Newest line so far.
    last: Option<Line>,
}

/// Extent of a reading in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The output that exists at the request, and no later one is wanted.
    Now,
    /// Later output as well. The engine may end the stream before the last output of the container.
    Followed,
    /// The complete output: the container had ended before the request.
    Whole,
}

impl Reader {
    async fn open(
        engine: Engine,
        identity: Identity,
        container: Container,
        path: PathBuf,
        scope: Scope,
    ) -> Result<Self, RuntimeError> {
        let log_offsets = LogOffsets::load(&path).await;
        let (lines, offsets) = aligned(&engine, &container, log_offsets, scope).await?;
        let (delivered, has_added, last) = (Delivered::default(), false, None);
        Ok(Self { engine, identity, container, path, scope, lines, offsets, delivered, has_added, last })
    }

    async fn next(&mut self) -> Result<Option<LogChunk>, RuntimeError> {
        loop {
            while let Some(line) = self.lines.try_next().await? {
                self.last = Some(line.clone());
                let chunk = self.offsets.chunk(line);
                self.note().await;
                if let Some(chunk) = self.delivered.what_is_new(chunk) {
                    self.has_added = true;
                    return Ok(Some(chunk));
                }
            }
            if self.scope == Scope::Now || (self.scope == Scope::Whole && !self.has_added) {
                return Ok(None);
            }
            if self.scope == Scope::Followed && !self.has_added {
                // Not in a busy loop. Most likely this waits for the container's end.
                drop(tokio::time::timeout(FOLLOW_AGAIN_AFTER, self.container.ended(&self.engine)).await);
            }
            self.look_again().await?;
            if self.container.state != FoundState::Running && self.has_the_end().await? {
                return Ok(None);
            }
            self.read_again().await?;
        }
    }

    /// Stores log offsets periodically.
    async fn note(&mut self) {
        if let Some(log_offsets) = self.offsets.due()
            && let Err(error) = log_offsets.store(&self.path).await
        {
            tracing::warn!(path = %self.path.display(), %error, "log offsets could not be stored");
        }
    }

    async fn look_again(&mut self) -> Result<(), RuntimeError> {
        let attempt = self.container.attempt;
        let found = Container::find(&self.engine, &self.identity, attempt).await?;
        let same = found.filter(|found| found.id == self.container.id);
        self.container = same.ok_or_else(|| RuntimeError::not_found(attempt))?;
        Ok(())
    }

    /// Whether the newest line is the last one. Engines end a followed stream when the container ends,
    /// however much of it is still to be read.
    async fn has_the_end(&mut self) -> Result<bool, RuntimeError> {
        let mut newest = lines(&self.engine, &self.container, Scope::Now, Tail::Newest);
        let newest = newest.try_next().await?;
        // Parts of a long line may be equal in everything.
        Ok(newest == self.last && newest.is_none_or(|line| line.is_complete()))
    }

    /// Requests the output once more, from its beginning.
    async fn read_again(&mut self) -> Result<(), RuntimeError> {
        self.scope = match self.container.state {
            FoundState::Running => Scope::Followed,
            _ => Scope::Whole,
        };
        self.has_added = false;
        self.lines = lines(&self.engine, &self.container, self.scope, Tail::All);
        match self.lines.as_mut().peek().await {
            Some(Ok(first)) if self.offsets.began_with(first) => self.offsets.rewind(),
            // The beginning was rotated away meanwhile.
            Some(Ok(_)) => {
                let log_offsets = self.offsets.log_offsets();
                (self.lines, self.offsets) =
                    aligned(&self.engine, &self.container, log_offsets, self.scope).await?;
            }
            Some(Err(_)) | None => {}
        }
        Ok(())
    }
}

/// Lines that the engine has, with their offsets.
async fn aligned(
    engine: &Engine,
    container: &Container,
    log_offsets: LogOffsets,
    scope: Scope,
) -> Result<(Lines, Offsets), RuntimeError> {
    let mut kept = KeptBefore::new(log_offsets);
    let mut output = lines(engine, container, scope, Tail::All);
    if !log_offsets.is_empty() {
        for _ in 0..COUNTS_MAX {
            kept = count(engine, container, log_offsets).await?;
            output = lines(engine, container, scope, Tail::All);
            let rotated = !kept.is_empty()
                && matches!(output.as_mut().peek().await, Some(Ok(first)) if !kept.agrees_with(first));
            if !rotated {
                break;
            }
        }
    }
    Ok((output, Offsets::new(&kept, spec::log_file_bytes(container.output_limit) / MARKS_IN_A_FILE)))
}

/// Counts the output before the log offsets that the engine still has.
async fn count(
    engine: &Engine,
    container: &Container,
    log_offsets: LogOffsets,
) -> Result<KeptBefore, RuntimeError> {
    let mut kept = KeptBefore::new(log_offsets);
    let mut lines = lines(engine, container, Scope::Now, Tail::All);
    while let Some(line) = lines.try_next().await? {
        kept.count(&line);
    }
    Ok(kept)
}

/// Part of the output that the engine has.
#[derive(Clone, Copy, Debug)]
enum Tail {
    /// All lines, from the oldest on.
    All,
    /// The newest line.
    Newest,
}

/// Lines that the engine has.
fn lines(engine: &Engine, container: &Container, scope: Scope, tail: Tail) -> Lines {
    let operation = format!("read the output of attempt {}", container.attempt);
    let tail = match tail {
        Tail::All => "all",
        Tail::Newest => "1",
    };
    let follow = scope == Scope::Followed;
    let options = LogsOptionsBuilder::default().follow(follow).stdout(true).stderr(true).timestamps(true);
    let lines = engine
        .watched(engine.docker.logs(&container.id, Some(options.tail(tail).build())))
        .map_ok(Line::read)
        .map_err(move |error| error.into_attempt(&operation))
        .boxed();
    Box::pin(lines.peekable())
}

/// End offsets of the delivered output of each stream.
#[derive(Debug, Default)]
struct Delivered {
    stdout: u64,
    stderr: u64,
}

impl Delivered {
    /// Part of a chunk that was not delivered before, and is marked as delivered by this call.
    fn what_is_new(&mut self, mut chunk: LogChunk) -> Option<LogChunk> {
        let end = match chunk.stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let repeated = end.saturating_sub(chunk.offset);
        if repeated >= length(&chunk.data) {
            return None;
        }
        chunk.offset += repeated;
        chunk.data = chunk.data.slice(usize::try_from(repeated).unwrap_or(usize::MAX)..);
        *end = chunk.offset + length(&chunk.data);
        Some(chunk)
    }
}

/// Newest chunks of both streams together, limited to a number of bytes.
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
