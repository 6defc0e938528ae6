//! Reading the output of a task, to its end.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    error::Error,
    lost_output::{Loss, LostOutput},
    view::View,
};
use crate::{
    model::{TaskId, Timestamp},
    output::{KeptOutput, OutputError, OutputPosition, OutputStore, OutputWatch, beyond},
    runtime::OutputStream,
    store::StoreError,
};

/// Chunk of a task's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputChunk {
    /// Attempt that wrote it.
    pub attempt: NonZeroU32,
    /// Stream that it was written to.
    pub stream: OutputStream,
    /// Bytes of this stream and attempt that came before it. A jump means that older output was dropped.
    pub offset: u64,
    /// Time at which the orchestrator received it, where that was asked for and is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The bytes.
    #[serde(with = "crate::engine::link::text_bytes")]
    pub data: Bytes,
    /// Bytes of this stream and attempt before `offset` that could not be kept, at the most; with no data. It
    /// comes when everything that was kept is read. 0 in all other chunks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl OutputChunk {
    /// Line for people where output could not be kept; `None` in all other chunks.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        let stream = match self.stream {
            OutputStream::Stdout => "standard output",
            OutputStream::Stderr => "standard error",
        };
        (self.lost > 0).then(|| {
            format!(
                "\n[orch: up to {} bytes of the {stream} of attempt {} could not be kept]\n",
                self.lost, self.attempt
            )
        })
    }
}

/// Part of a task's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputRange {
    /// Goes on until the task has finished, or until a later attempt writes where only one is read.
    pub follow: bool,
    /// Only what this attempt wrote.
    pub attempt: Option<NonZeroU32>,
    /// Only the last lines of what is there already, both streams together, as far as they are within the
    /// last 16 MiB.
    pub tail: Option<u32>,
    /// Only what was taken in at this time or later. A piece whose time is unknown is older than any.
    pub since: Option<Timestamp>,
    /// Pieces come with their times.
    pub times: bool,
}

impl OutputRange {
    fn wants(&self, piece: &KeptOutput) -> bool {
        self.attempt.is_none_or(|of| piece.position.attempt == of)
            && self.since.is_none_or(|since| piece.time >= Some(since))
    }

    /// Whether nothing of it comes after this piece.
    fn is_before(&self, piece: &KeptOutput) -> bool {
        self.attempt.is_some_and(|of| piece.position.attempt > of)
    }
}

/// A task's output in the order in which it arrived. Dropping it ends the reading.
pub struct OutputReader {
    output: Arc<dyn OutputStore>,
    task: TaskId,
    range: OutputRange,
    /// Place before its beginning.
    first: Option<OutputPosition>,
    ready: VecDeque<OutputChunk>,
    last: Option<OutputPosition>,
    /// End of what was read of each attempt and stream.
    read: BTreeMap<(NonZeroU32, OutputStream), u64>,
    lost: Option<Arc<LostOutput>>,
    state: State,
}

enum State {
    /// There may be more to read, and more may come.
    Behind(Follow),
    /// Everything that was there is read; more may come.
    Waiting(Follow),
    /// There may be more to read, and nothing more will come.
    Last,
    /// Everything is read but what is known of losses.
    Losses,
    Ended,
}

impl State {
    /// Everything that there was is read.
    fn read(self) -> Self {
        match self {
            Self::Behind(follow) => Self::Waiting(follow),
            Self::Last => Self::Losses,
            _ => Self::Ended,
        }
    }

    /// There may be more.
    fn behind(self) -> Self {
        match self {
            Self::Waiting(follow) => Self::Behind(follow),
            other => other,
        }
    }
}

struct Follow {
    /// Absent when it has to begin anew.
    watch: Option<OutputWatch>,
    /// Resolves when the task has finished, with an error when the orchestrator has ended.
    finished: oneshot::Receiver<()>,
}

impl std::fmt::Debug for OutputReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputReader").field("task", &self.task).finish_non_exhaustive()
    }
}

impl OutputReader {
    pub(super) async fn open(
        output: Arc<dyn OutputStore>,
        view: &View,
        task: TaskId,
        range: OutputRange,
    ) -> Result<Self, Error> {
        // An agent delivers all output of an attempt before it reports the end.
        let finished = if range.follow { view.finished(task) } else { None };
        let state = match finished {
            Some(finished) => State::Behind(Follow { watch: Some(output.follow(task).await?), finished }),
            None => State::Last,
        };
        let before_attempt = range.attempt.and_then(OutputPosition::before_attempt);
        let before = match range.since {
            Some(since) => output.place_since(task, range.attempt, since).await?.or(before_attempt),
            None => before_attempt,
        };
        let (first, read) = match range.tail {
            Some(lines) => tail(&*output, task, &range, before, lines).await?,
            None => (before, None),
        };
        let read = read.into_iter().collect();
        let (last, lost) = (first, None);
        Ok(Self { output, task, range, first, ready: VecDeque::new(), last, read, lost, state })
    }

    /// The same, which tells of losses in the end.
    pub(super) fn with_losses(self, lost: Arc<LostOutput>) -> Self {
        Self { lost: Some(lost), ..self }
    }

    /// The next piece. When following, waits for it until the task has finished; otherwise `None` ends what
    /// there was. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Store`] or [`Error::Output`] when it cannot be read.
    pub async fn next(&mut self) -> Option<Result<OutputChunk, Error>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            if let Err(error) = self.step().await {
                return Some(Err(error.into()));
            }
            if let (true, State::Ended) = (self.ready.is_empty(), &self.state) {
                return None;
            }
        }
    }

    /// Everything that is left, as text, both streams together, with the notices of what could not be kept.
    /// Bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// As [`OutputReader::next`].
    pub async fn text(mut self) -> Result<String, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next().await {
            let chunk = chunk?;
            bytes.extend_from_slice(&chunk.data);
            bytes.extend(chunk.notice().unwrap_or_default().into_bytes());
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads a page, or waits until there may be one.
    async fn step(&mut self) -> Result<(), OutputError> {
        match &mut self.state {
            State::Ended => {}
            State::Losses => {
                self.state = State::Ended;
                if let Some(lost) = &self.lost {
                    let mut losses = lost.of(self.task).await?;
                    losses.retain(|loss| self.range.attempt.is_none_or(|of| loss.attempt == of));
                    self.ready.extend(losses.into_iter().map(OutputChunk::from));
                }
            }
            State::Behind(_) | State::Last => {
                let page = match self.output.read(self.task, self.last).await {
                    Ok(page) => page,
                    Err(error) => {
                        // Somebody who goes on all the same must not read for ever.
                        self.state = State::Ended;
                        return Err(error);
                    }
                };
                let more = page.more;
                let later = page.chunks.last().is_some_and(|last| self.range.is_before(last));
                page.chunks.into_iter().for_each(|piece| self.take(piece));
                self.last = more.or(self.last);
                if later {
                    self.state = State::Losses;
                } else if more.is_none() {
                    return self.turn(State::read);
                }
            }
            State::Waiting(Follow { watch, finished }) => {
                let Some(woken) = watch else {
                    *watch = Some(self.output.follow(self.task).await?);
                    return self.turn(State::behind);
                };
                tokio::select! {
                    biased;
                    finished = finished => {
                        // From the beginning: another member may have counted the pieces anew. What was read
                        // before is known by its offsets.
                        self.last = self.first;
                        self.state = if finished.is_ok() { State::Last } else { State::Ended };
                    }
                    woken = woken.next() => match woken {
                        Some(Ok(())) => return self.turn(State::behind),
                        // What came meanwhile is read once it is followed anew.
                        Some(Err(OutputError::Store(StoreError::Compacted { .. }))) => *watch = None,
                        Some(Err(error)) => {
                            self.state = State::Ended;
                            return Err(error);
                        }
                        None => self.state = State::Ended,
                    },
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, to: impl FnOnce(State) -> State) -> Result<(), OutputError> {
        self.state = to(std::mem::replace(&mut self.state, State::Ended));
        Ok(())
    }

    /// Takes what was not read yet.
    fn take(&mut self, piece: KeptOutput) {
        if self.range.attempt.is_some_and(|attempt| piece.position.attempt != attempt) {
            return;
        }
        let is_wanted = self.range.wants(&piece);
        let KeptOutput { position, stream, offset, time, data } = piece;
        self.last = self.last.max(Some(position));
        let read = self.read.entry((position.attempt, stream)).or_default();
        if let Some((offset, data)) = beyond(*read, offset, data) {
            *read = offset.saturating_add(data.len() as u64);
            if is_wanted {
                let time = time.filter(|_| self.range.times);
                let attempt = position.attempt;
                self.ready.push_back(OutputChunk { attempt, stream, offset, time, data, lost: 0 });
            }
        }
    }
}

impl From<Loss> for OutputChunk {
    fn from(Loss { attempt, stream, bytes, end }: Loss) -> Self {
        Self { attempt, stream, offset: end, time: None, data: Bytes::new(), lost: bytes }
    }
}

/// End of what was read already of an attempt and stream.
type Read = ((NonZeroU32, OutputStream), u64);

/// Place before the last lines, and what of the first of their pieces is before them. Nothing of the range is
/// up to `before`. Reads no more than it has to.
async fn tail(
    output: &dyn OutputStore,
    task: TaskId,
    range: &OutputRange,
    before: Option<OutputPosition>,
    lines: u32,
) -> Result<(Option<OutputPosition>, Option<Read>), OutputError> {
    const BYTES_FIRST: u64 = 64 << 10;
    const BYTES_MAX: u64 = 16 << 20;
    let mut bytes = BYTES_FIRST;
    loop {
        let first = output.place_of_last(task, range.attempt, bytes).await?.max(before);
        let pieces = all_after(output, task, range, first).await?;
        if let Some((at, cut)) = last_lines(&pieces, lines) {
            let previous = at.checked_sub(1).and_then(|previous| pieces.get(previous));
            let place = previous.map(|piece| piece.position).or(first);
            let read =
                pieces.get(at).map(|piece| ((piece.position.attempt, piece.stream), piece.offset + cut));
            return Ok((place, read));
        }
        if first == before || bytes >= BYTES_MAX {
            return Ok((first, None));
        }
        bytes *= 8;
    }
}

async fn all_after(
    output: &dyn OutputStore,
    task: TaskId,
    range: &OutputRange,
    mut after: Option<OutputPosition>,
) -> Result<Vec<KeptOutput>, OutputError> {
    let mut pieces = Vec::new();
    loop {
        let page = output.read(task, after).await?;
        let later = page.chunks.last().is_some_and(|last| range.is_before(last));
        pieces.extend(page.chunks.into_iter().filter(|piece| range.wants(piece)));
        match page.more.filter(|_| !later) {
            Some(more) => after = Some(more),
            None => return Ok(pieces),
        }
    }
}

/// The piece in which the last lines begin, and the byte in it; `None` where there are no more lines than
/// that.
fn last_lines(pieces: &[KeptOutput], lines: u32) -> Option<(usize, u64)> {
    let mut left = lines;
    // The last line ends with the last byte, whether that is a break or not.
    let mut is_end = lines > 0;
    for (at, piece) in pieces.iter().enumerate().rev() {
        let searched = piece.data.len() - usize::from(is_end && !piece.data.is_empty());
        is_end = false;
        if left == 0 {
            return Some((at, piece.data.len() as u64));
        }
        for (byte, _) in piece.data[..searched].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            left -= 1;
            if left == 0 {
                return Some((at, byte as u64 + 1));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
