//! Reading a task's output through disconnects.

use std::{collections::BTreeMap, num::NonZeroU32};

use orch_base::backoff::Backoff;
use orch_core::{
    engine::{OutputChunk, OutputRange},
    model::TaskId,
    runtime::OutputStream,
};

use super::{
    error::ClientError,
    json_client::{Call, JsonClient},
    lines::LineStream,
};

/// A task's output in the order in which it arrived. When the connection breaks it is opened again, and what
/// was given already is passed over. Dropping it ends the reading.
#[derive(Debug)]
pub struct LogLines {
    client: JsonClient,
    task: TaskId,
    range: OutputRange,
    /// The first piece that was given, where a tail was asked for.
    first: Option<Place>,
    /// Pieces before this one are passed over: they are before the tail.
    skip_to: Option<Place>,
    lines: Option<LineStream>,
    /// Offset at which each stream goes on.
    next_offset: BTreeMap<(NonZeroU32, OutputStream), u64>,
    backoff: Backoff,
    over: bool,
}

/// Place in a task's output.
#[derive(Clone, Copy, Debug)]
struct Place {
    attempt: NonZeroU32,
    stream: OutputStream,
    offset: u64,
}

impl Place {
    /// Whether the piece, which arrived in order, ends before this place.
    fn is_after(&self, chunk: &OutputChunk) -> bool {
        let same = (chunk.attempt, chunk.stream) == (self.attempt, self.stream);
        chunk.attempt <= self.attempt && !(same && chunk.offset + chunk.data.len() as u64 > self.offset)
    }
}

impl LogLines {
    pub(super) fn new(client: JsonClient, task: TaskId, range: OutputRange) -> Self {
        let backoff = client.timeouts.backoff();
        Self {
            client,
            task,
            range,
            first: None,
            skip_to: None,
            lines: None,
            next_offset: BTreeMap::new(),
            backoff,
            over: false,
        }
    }

    pub(super) async fn connect(&mut self) -> Result<(), ClientError> {
        let mut path = format!("/api/v1/tasks/{}/logs?format=json&follow={}", self.task, self.range.follow);
        if let Some(attempt) = self.range.attempt {
            path += &format!("&attempt={attempt}");
        }
        if let Some(since) = self.range.since {
            path += &format!("&since={}", since.as_millis());
        }
        // A server of before does not know it.
        if self.range.times {
            path += "&timestamps=true";
        }
        match (self.range.tail, self.first) {
            (Some(lines), None) => path += &format!("&tail={lines}"),
            // The end is another one by now: what was given already tells where the tail began.
            (_, first) => self.skip_to = first,
        }
        let timeouts = &self.client.timeouts;
        let response = self.client.open(&Call::get(path), timeouts.request).await?;
        self.lines = Some(LineStream::new(response, timeouts.idle));
        Ok(())
    }

    /// The next piece; `None` when there is no more, or after an error. Cancel safe.
    ///
    /// # Errors
    /// What trying again does not mend: the task was forgotten, say.
    pub async fn next(&mut self) -> Option<Result<OutputChunk, ClientError>> {
        while !self.over {
            match self.step().await {
                Ok(Some(chunk)) => {
                    self.backoff.reset();
                    return Some(Ok(chunk));
                }
                Ok(None) => {}
                Err(error) if error.is_retryable() => {
                    tracing::debug!(%error, "output broke off; trying again");
                    self.lines = None;
                    tokio::time::sleep(self.backoff.next_delay()).await;
                }
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// Everything that is left, as text, both streams together, with the notices of what could not be kept.
    /// Bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// As [`LogLines::next`].
    pub async fn text(mut self) -> Result<String, ClientError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next().await {
            let chunk = chunk?;
            bytes.extend_from_slice(&chunk.data);
            bytes.extend(chunk.notice().unwrap_or_default().into_bytes());
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The output as a stream.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = Result<OutputChunk, ClientError>> + Send {
        futures_util::stream::unfold(self, async |mut output| Some((output.next().await?, output)))
    }

    async fn step(&mut self) -> Result<Option<OutputChunk>, ClientError> {
        let Some(lines) = &mut self.lines else { return self.connect().await.map(|()| None) };
        let Some(line) = lines.next().await? else {
            self.over = true;
            return Ok(None);
        };
        if line.is_empty() {
            return Ok(None);
        }
        let chunk: OutputChunk =
            serde_json::from_str(&line).map_err(|error| ClientError::Protocol(error.to_string()))?;
        Ok(self.new_part(chunk))
    }

    /// Part of the chunk that was not given yet.
    fn new_part(&mut self, mut chunk: OutputChunk) -> Option<OutputChunk> {
        // It comes after everything else.
        if chunk.lost > 0 {
            return Some(chunk);
        }
        if let Some(place) = self.skip_to {
            if place.is_after(&chunk) {
                return None;
            }
            self.skip_to = None;
        }
        if self.range.tail.is_some() {
            let OutputChunk { attempt, stream, offset, .. } = chunk;
            self.first.get_or_insert(Place { attempt, stream, offset });
        }
        let next = self.next_offset.entry((chunk.attempt, chunk.stream)).or_default();
        let known = usize::try_from(next.saturating_sub(chunk.offset)).unwrap_or(usize::MAX);
        if known >= chunk.data.len() {
            return None;
        }
        chunk.data = chunk.data.split_off(known);
        chunk.offset += known as u64;
        *next = chunk.offset + chunk.data.len() as u64;
        Some(chunk)
    }
}
