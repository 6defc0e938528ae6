//! Output of tasks, kept in the store's observation space in pieces, newest first to stay.
//!
//! A piece is a record `observed/output/<task>/<attempt>/<number>`: a line of JSON that says where it belongs, then the bytes
//! as they were written. Numbers give the order in which pieces arrived, both streams together.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{error::Error, view::View};
use crate::{
    model::{AttemptId, TaskId},
    runtime::OutputStream,
    store::{CommitError, Entry, Key, Revision, StateStore, StoreError, Txn, Watch, Write},
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
    store: Arc<dyn StateStore>,
    view: Arc<View>,
    task: TaskId,
    ready: VecDeque<OutputChunk>,
    last: Option<Key>,
    follow: Option<Watch>,
    ended: bool,
}

impl std::fmt::Debug for OutputReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputReader").field("task", &self.task).finish_non_exhaustive()
    }
}

impl OutputReader {
    pub(super) async fn open(
        store: Arc<dyn StateStore>,
        view: Arc<View>,
        task: TaskId,
        follow: bool,
    ) -> Result<Self, Error> {
        let mut reader =
            Self { store, view, task, ready: VecDeque::new(), last: None, follow: None, ended: !follow };
        let revision = reader.read_on().await?;
        if follow {
            reader.follow = Some(reader.store.watch(&prefix(task), revision).await?);
        }
        Ok(reader)
    }

    /// The next piece. When following, waits for it until the task has finished; otherwise `None` ends what there was.
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Store`] when the store fails.
    pub async fn next(&mut self) -> Option<Result<OutputChunk, Error>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Some(Ok(chunk));
            }
            if self.ended {
                return None;
            }
            // An agent delivers all output of an attempt before it reports the end.
            let finished = self.view.finished(self.task);
            let Some((watch, finished)) = self.follow.as_mut().zip(finished) else {
                self.ended = true;
                match self.read_on().await {
                    Ok(_) => continue,
                    Err(error) => return Some(Err(error)),
                }
            };
            let next = tokio::select! {
                next = watch.next() => next,
                _ = finished => continue,
            };
            match next {
                Some(Ok(batch)) => {
                    for write in batch.writes {
                        if let Some(value) = write.value {
                            self.take(&write.key, &value);
                        }
                    }
                }
                Some(Err(StoreError::Compacted { .. })) => match self.resume().await {
                    Ok(()) => {}
                    Err(error) => return Some(Err(error)),
                },
                Some(Err(error)) => {
                    self.ended = true;
                    return Some(Err(error.into()));
                }
                None => self.ended = true,
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

    async fn resume(&mut self) -> Result<(), Error> {
        let revision = self.read_on().await?;
        self.follow = Some(self.store.watch(&prefix(self.task), revision).await?);
        Ok(())
    }

    /// Reads what is stored after the last piece; says as of which revision.
    async fn read_on(&mut self) -> Result<Revision, Error> {
        const PAGE: usize = 64;
        let mut first = None;
        loop {
            let page = self.store.scan(&prefix(self.task), self.last.as_ref(), PAGE).await?;
            let revision = *first.get_or_insert(page.revision);
            for Entry { key, value, .. } in &page.entries {
                self.take(key, value);
            }
            if !page.more {
                return Ok(revision);
            }
        }
    }

    fn take(&mut self, key: &Key, value: &Bytes) {
        if self.last.as_ref().is_none_or(|last| key > last) {
            self.ready.extend(decode(key, value));
            self.last = Some(key.clone());
        }
    }
}

/// Writes output of all tasks, within bounds.
#[derive(Debug)]
pub(super) struct OutputWriter {
    store: Arc<dyn StateStore>,
    index: Mutex<Index>,
}

#[derive(Debug)]
struct Index {
    attempts: BTreeMap<AttemptId, Kept>,
    /// Attempts by age of their first piece.
    by_age: BTreeMap<u64, AttemptId>,
    next_age: u64,
    bytes: u64,
    bytes_max: u64,
}

/// What is kept of one attempt.
#[derive(Debug, Default)]
struct Kept {
    age: u64,
    pieces: VecDeque<(u64, u64)>,
    bytes: u64,
    next_number: u64,
    next_offset: BTreeMap<OutputStream, u64>,
}

/// A piece to write.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) attempt: AttemptId,
    pub(super) limit: u64,
    pub(super) stream: OutputStream,
    pub(super) offset: u64,
    pub(super) data: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Header {
    v: u8,
    stream: OutputStream,
    offset: u64,
}

impl OutputWriter {
    /// Reads what an earlier life kept.
    pub(super) async fn open(store: Arc<dyn StateStore>, bytes_max: u64) -> Result<Self, StoreError> {
        let mut index =
            Index { attempts: BTreeMap::new(), by_age: BTreeMap::new(), next_age: 0, bytes: 0, bytes_max };
        let mut after = None;
        loop {
            let page = store.scan("observed/output/", after.as_ref(), 256).await?;
            for Entry { key, value, .. } in &page.entries {
                index.restore(key, value);
            }
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                return Ok(Self { store, index: Mutex::new(index) });
            }
        }
    }

    /// Writes pieces and whatever else belongs into the same transaction. Pieces that are there already are left out.
    pub(super) async fn write(&self, pieces: Vec<Piece>, mut also: Vec<Write>) -> Result<(), StoreError> {
        let mut index = self.index.lock().await;
        let touched: Vec<AttemptId> = pieces.iter().map(|piece| piece.attempt).collect();
        for piece in pieces {
            index.add(piece, &mut also);
        }
        index.evict(&mut also);
        if also.is_empty() {
            return Ok(());
        }
        match self.store.commit(Txn::of(also)).await {
            Ok(_) => Ok(()),
            Err(CommitError::Store(error)) => {
                // The agent sends the pieces again; they must not look as if they were there.
                touched.iter().for_each(|attempt| index.forget_progress(*attempt));
                Err(error)
            }
            Err(CommitError::Conflict { .. }) => unreachable!("there are no guards"),
        }
    }

    /// The deletions that forget everything of a task.
    pub(super) async fn forget(&self, task: TaskId) -> Vec<Write> {
        let mut index = self.index.lock().await;
        let all = AttemptId { task, attempt: NonZeroU32::MIN }..=AttemptId { task, attempt: NonZeroU32::MAX };
        let attempts: Vec<AttemptId> = index.attempts.range(all).map(|(attempt, _)| *attempt).collect();
        let mut writes = Vec::new();
        for attempt in attempts {
            index.remove(attempt, &mut writes);
        }
        writes
    }
}

impl Index {
    fn add(&mut self, piece: Piece, writes: &mut Vec<Write>) {
        let Piece { attempt, limit, stream, offset, mut data } = piece;
        let (next_age, by_age) = (&mut self.next_age, &mut self.by_age);
        let kept = self.attempts.entry(attempt).or_insert_with(|| {
            *next_age += 1;
            by_age.insert(*next_age, attempt);
            Kept { age: *next_age, ..Kept::default() }
        });
        let next = kept.next_offset.entry(stream).or_default();
        let repeated = usize::try_from(next.saturating_sub(offset)).unwrap_or(usize::MAX);
        if repeated >= data.len() {
            return;
        }
        let data = data.split_off(repeated);
        let offset = offset.max(*next);
        *next = offset + data.len() as u64;
        writes.push(Write::put(piece_key(attempt, kept.next_number), encode(stream, offset, &data)));
        kept.pieces.push_back((kept.next_number, data.len() as u64));
        kept.next_number += 1;
        kept.bytes += data.len() as u64;
        self.bytes += data.len() as u64;
        while kept.bytes > limit && kept.pieces.len() > 1 {
            if let Some((number, bytes)) = kept.pieces.pop_front() {
                writes.push(Write::delete(piece_key(attempt, number)));
                kept.bytes -= bytes;
                self.bytes -= bytes;
            }
        }
    }

    /// Makes room by forgetting whole attempts, those first that wrote first.
    fn evict(&mut self, writes: &mut Vec<Write>) {
        while self.bytes > self.bytes_max && self.by_age.len() > 1 {
            let Some((_, oldest)) = self.by_age.first_key_value() else { return };
            self.remove(*oldest, writes);
        }
    }

    fn remove(&mut self, attempt: AttemptId, writes: &mut Vec<Write>) {
        if let Some(kept) = self.attempts.remove(&attempt) {
            self.by_age.remove(&kept.age);
            self.bytes -= kept.bytes;
            writes.extend(kept.pieces.iter().map(|(number, _)| Write::delete(piece_key(attempt, *number))));
        }
    }

    fn forget_progress(&mut self, attempt: AttemptId) {
        if let Some(kept) = self.attempts.get_mut(&attempt) {
            kept.next_offset.clear();
        }
    }

    fn restore(&mut self, key: &Key, value: &Bytes) {
        let Some((attempt, number)) = parse_key(key) else { return };
        let Some(chunk) = decode(key, value) else { return };
        let (next_age, by_age) = (&mut self.next_age, &mut self.by_age);
        let kept = self.attempts.entry(attempt).or_insert_with(|| {
            *next_age += 1;
            by_age.insert(*next_age, attempt);
            Kept { age: *next_age, ..Kept::default() }
        });
        let bytes = chunk.data.len() as u64;
        kept.pieces.push_back((number, bytes));
        kept.bytes += bytes;
        kept.next_number = number + 1;
        kept.next_offset.insert(chunk.stream, chunk.offset + bytes);
        self.bytes += bytes;
    }
}

fn prefix(task: TaskId) -> String {
    format!("observed/output/{task}/")
}

fn piece_key(attempt: AttemptId, number: u64) -> Key {
    let (task, attempt) = (attempt.task, attempt.attempt);
    Key::new(format!("observed/output/{task}/{attempt:010}/{number:012}")).expect("a valid key")
}

fn parse_key(key: &Key) -> Option<(AttemptId, u64)> {
    let mut parts = key.as_str().strip_prefix("observed/output/")?.split('/');
    let (task, attempt, number) = (parts.next()?, parts.next()?, parts.next()?);
    Some((AttemptId { task: task.parse().ok()?, attempt: attempt.parse().ok()? }, number.parse().ok()?))
}

fn encode(stream: OutputStream, offset: u64, data: &[u8]) -> Bytes {
    let header = serde_json::to_vec(&Header { v: 1, stream, offset }).expect("plain data has a JSON form");
    let mut value = BytesMut::with_capacity(header.len() + 1 + data.len());
    value.extend_from_slice(&header);
    value.extend_from_slice(b"\n");
    value.extend_from_slice(data);
    value.freeze()
}

/// A piece that cannot be read (a newer version wrote it) is passed over: output is not worth failing for.
fn decode(key: &Key, value: &Bytes) -> Option<OutputChunk> {
    let (attempt, _) = parse_key(key)?;
    let end = value.iter().position(|byte| *byte == b'\n')?;
    let header: Header =
        serde_json::from_slice(&value[..end]).ok().filter(|header: &Header| header.v == 1)?;
    Some(OutputChunk {
        attempt: attempt.attempt,
        stream: header.stream,
        offset: header.offset,
        data: value.slice(end + 1..),
    })
}
