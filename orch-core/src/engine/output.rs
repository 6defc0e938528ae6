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

use super::{error::Error, view::View};
use crate::{
    model::TaskId,
    output::{KeptOutput, OutputError, OutputPosition, OutputStore, OutputWatch, beyond},
    runtime::OutputStream,
    store::StoreError,
};

/// A piece of a task's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputChunk {
    /// Which attempt wrote it.
    pub attempt: NonZeroU32,
    /// Where it was written to.
    pub stream: OutputStream,
    /// How many bytes of this stream and attempt came before it. A jump means that older output was dropped.
    pub offset: u64,
    /// The bytes.
    #[serde(with = "super::link::text_bytes")]
    pub data: Bytes,
}

/// A task's output in the order in which it arrived. Dropping it ends the reading.
pub struct OutputReader {
    output: Arc<dyn OutputStore>,
    task: TaskId,
    ready: VecDeque<OutputChunk>,
    last: Option<OutputPosition>,
    /// Where what was read of each attempt and stream ends.
    read: BTreeMap<(NonZeroU32, OutputStream), u64>,
    state: State,
}

enum State {
    /// There may be more to read, and more may come.
    Behind(Follow),
    /// What there was is read; more may come.
    Waiting(Follow),
    /// There may be more to read, and nothing more will come.
    Last,
    Ended,
}

impl State {
    /// Everything that there was is read.
    fn read(self) -> Self {
        match self {
            Self::Behind(follow) => Self::Waiting(follow),
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
        follow: bool,
    ) -> Result<Self, Error> {
        // An agent delivers all output of an attempt before it reports the end.
        let finished = if follow { view.finished(task) } else { None };
        let state = match finished {
            Some(finished) => State::Behind(Follow { watch: Some(output.follow(task).await?), finished }),
            None => State::Last,
        };
        Ok(Self { output, task, ready: VecDeque::new(), last: None, read: BTreeMap::new(), state })
    }

    /// The next piece. When following, waits for it until the task has finished; otherwise `None` ends what there was.
    /// Cancel safe.
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

    /// Everything that is left, as text, both streams together. Bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// As [`OutputReader::next`].
    pub async fn text(mut self) -> Result<String, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next().await {
            bytes.extend_from_slice(&chunk?.data);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads a page, or waits until there may be one.
    async fn step(&mut self) -> Result<(), OutputError> {
        match &mut self.state {
            State::Ended => {}
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
                page.pieces.into_iter().for_each(|piece| self.take(piece));
                self.last = more.or(self.last);
                if more.is_none() {
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
                        // From the beginning: another member may have counted the pieces anew. What was read before is
                        // known by its offsets.
                        self.last = None;
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
        let KeptOutput { position, stream, offset, data } = piece;
        self.last = self.last.max(Some(position));
        let read = self.read.entry((position.attempt, stream)).or_default();
        if let Some((offset, data)) = beyond(*read, offset, data) {
            *read = offset.saturating_add(data.len() as u64);
            self.ready.push_back(OutputChunk { attempt: position.attempt, stream, offset, data });
        }
    }
}

#[cfg(test)]
mod tests;
