//! Output of tasks, kept in the store's observation space in pieces, newest first to stay.
//!
//! A piece is a record `observed/output/<task>/<attempt>/<number>`: a line of JSON that says where it belongs, then the bytes
//! as they were written. Numbers give the order in which pieces arrived, both streams together.
//!
//! A piece may be stored twice, under one number or two, when nobody knows whether a commit happened. Offsets tell.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::debug;

use super::{error::Error, view::View};
use crate::{
    model::{AttemptId, TaskId},
    runtime::OutputStream,
    store::{
        CommitError, Entry, Key, Revision, StateStore, StoreCapabilities, StoreError, Txn, Watch, Write,
    },
};

/// The most bytes of a piece. Smaller ones that follow each other are put together, larger ones are cut.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// What a piece takes beside its data (its key, its header, its place in the index), and a little more.
const PIECE_OVERHEAD: usize = 128;
/// The most pieces kept of one attempt.
const PIECES_MAX: usize = 16_384;

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
    /// Where what was read of each attempt and stream ends.
    read: BTreeMap<(NonZeroU32, OutputStream), u64>,
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
        let mut reader = Self {
            store,
            view,
            task,
            ready: VecDeque::new(),
            last: None,
            read: BTreeMap::new(),
            follow: None,
            ended: !follow,
        };
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
                // From the beginning: an attempt whose output made room for others counts its pieces anew. What was read
                // before is known by its offsets.
                self.last = None;
                match self.read_on().await {
                    Ok(_) => continue,
                    Err(error) => return Some(Err(error)),
                }
            };
            let next = tokio::select! {
                next = watch.next() => next,
                finished = finished => {
                    self.ended = finished.is_err();
                    continue;
                }
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

    /// Takes what was not read yet.
    fn take(&mut self, key: &Key, value: &Bytes) {
        if self.last.as_ref().is_none_or(|last| key > last) {
            self.last = Some(key.clone());
        }
        let Some(mut chunk) = decode(key, value) else { return };
        let read = self.read.entry((chunk.attempt, chunk.stream)).or_default();
        if let Some((offset, data)) = beyond(*read, chunk.offset, chunk.data) {
            *read = offset + data.len() as u64;
            (chunk.offset, chunk.data) = (offset, data);
            self.ready.push_back(chunk);
        }
    }
}

/// Writes output of all tasks, within bounds.
#[derive(Debug)]
pub(super) struct OutputWriter {
    store: Arc<dyn StateStore>,
    limits: StoreCapabilities,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    attempts: BTreeMap<AttemptId, Kept>,
    /// Attempts by age of their first piece.
    by_age: BTreeMap<u64, AttemptId>,
    next_age: u64,
    /// Of all pieces, with what they take beside their data.
    bytes: u64,
    bytes_max: u64,
    /// Attempts, with their age, of which the store may hold something else than is written here. Not empty after a
    /// commit that failed or that nobody waited for.
    unsure: BTreeMap<AttemptId, u64>,
}

/// What is kept of one attempt.
#[derive(Debug, Default)]
struct Kept {
    age: u64,
    /// Numbers and bytes.
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

/// Pieces put together.
struct Run {
    attempt: AttemptId,
    stream: OutputStream,
    offset: u64,
    data: BytesMut,
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
        let mut index = Index { bytes_max, ..Index::default() };
        index.read(&*store, PREFIX).await?;
        Ok(Self { limits: store.capabilities(), store, index: Mutex::new(index) })
    }

    /// Writes pieces and whatever else there is, in one transaction unless the store takes only smaller ones. Pieces
    /// that are there already are left out. After an error, or when the future was dropped, any part may have been
    /// written; writing the same again is right.
    pub(super) async fn write(&self, pieces: Vec<Piece>, also: Vec<Write>) -> Result<(), StoreError> {
        if pieces.is_empty() && also.is_empty() {
            return Ok(());
        }
        let mut index = self.index.lock().await;
        index.look_again(&*self.store).await?;
        let mut writes = also;
        let limits: BTreeMap<_, _> = pieces.iter().map(|piece| (piece.attempt, piece.limit)).collect();
        let most = self.limits.max_value_bytes.saturating_sub(PIECE_OVERHEAD).clamp(1, PIECE_BYTES_MAX);
        for run in put_together(pieces, most) {
            index.add(run, &mut writes);
        }
        for (attempt, limit) in limits {
            index.trim(attempt, limit, &mut writes);
        }
        index.evict(&mut writes);
        for txn in self.transactions(writes) {
            match self.store.commit(txn).await {
                Ok(_) => {}
                Err(CommitError::Store(error)) => return Err(error),
                Err(CommitError::Conflict { .. }) => unreachable!("there are no guards"),
            }
        }
        index.unsure.clear();
        Ok(())
    }

    /// The deletions that forget everything of a task.
    pub(super) async fn forget(&self, task: TaskId) -> Vec<Write> {
        let mut index = self.index.lock().await;
        if let Err(error) = index.look_again(&*self.store).await {
            debug!(%error, "some output of a forgotten task may stay until the next start");
        }
        index.unsure.retain(|attempt, _| attempt.task != task);
        let all = AttemptId { task, attempt: NonZeroU32::MIN }..=AttemptId { task, attempt: NonZeroU32::MAX };
        let attempts: Vec<AttemptId> = index.attempts.range(all).map(|(attempt, _)| *attempt).collect();
        let mut writes = Vec::new();
        for attempt in attempts {
            index.remove(attempt, &mut writes);
        }
        writes
    }

    /// Writes in portions that the store takes, in their order. How large a whole transaction may be no store says; the
    /// size of one value is certainly not too large.
    fn transactions(&self, writes: Vec<Write>) -> Vec<Txn> {
        let StoreCapabilities { max_txn_writes, max_value_bytes, .. } = self.limits;
        let (mut all, mut last, mut bytes) = (Vec::new(), Vec::new(), 0);
        for write in writes {
            let size = write.key.as_str().len() + write.value.as_ref().map_or(0, Bytes::len);
            if !last.is_empty() && (last.len() >= max_txn_writes || bytes + size > max_value_bytes) {
                all.push(Txn::of(std::mem::take(&mut last)));
                bytes = 0;
            }
            bytes += size;
            last.push(write);
        }
        if !last.is_empty() {
            all.push(Txn::of(last));
        }
        all
    }
}

/// Joins what goes on where the piece before it of the same attempt ended, and cuts to `most` bytes. The order of both
/// streams of an attempt stays.
fn put_together(pieces: Vec<Piece>, most: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut latest: BTreeMap<AttemptId, usize> = BTreeMap::new();
    for Piece { attempt, stream, mut offset, mut data, .. } in pieces {
        while !data.is_empty() {
            let open = latest.get(&attempt).and_then(|at| runs.get_mut(*at)).filter(|run| {
                run.stream == stream && run.offset + run.data.len() as u64 == offset && run.data.len() < most
            });
            let room = most - open.as_ref().map_or(0, |run| run.data.len());
            let part = data.split_to(room.min(data.len()));
            let start = offset;
            offset += part.len() as u64;
            match open {
                Some(run) => run.data.extend_from_slice(&part),
                None => {
                    latest.insert(attempt, runs.len());
                    runs.push(Run { attempt, stream, offset: start, data: part.into() });
                }
            }
        }
    }
    runs
}

/// The part of `data`, which begins at `offset`, that lies beyond `end`, and where it begins.
fn beyond(end: u64, offset: u64, mut data: Bytes) -> Option<(u64, Bytes)> {
    let repeated = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
    (repeated < data.len()).then(|| (offset.max(end), data.split_off(repeated)))
}

impl Index {
    /// Adds everything under `prefix` that the store holds.
    async fn read(&mut self, store: &dyn StateStore, prefix: &str) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = store.scan(prefix, after.as_ref(), 256).await?;
            for Entry { key, value, .. } in &page.entries {
                self.restore(key, value);
            }
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                return Ok(());
            }
        }
    }

    /// Reads again what the last write may have left in another state than is written here.
    async fn look_again(&mut self, store: &dyn StateStore) -> Result<(), StoreError> {
        while let Some((attempt, _)) = self.unsure.first_key_value() {
            let attempt = *attempt;
            self.remove(attempt, &mut Vec::new());
            self.read(store, &attempt_prefix(attempt)).await?;
            self.unsure.remove(&attempt);
        }
        Ok(())
    }

    fn restore(&mut self, key: &Key, value: &Bytes) {
        let Some((attempt, number)) = parse_key(key) else { return };
        let Some(chunk) = decode(key, value) else { return };
        let kept = self.kept(attempt);
        let bytes = chunk.data.len() as u64;
        kept.push(number, bytes);
        let next = kept.next_offset.entry(chunk.stream).or_default();
        *next = (*next).max(chunk.offset + bytes);
        self.bytes += cost(bytes);
    }

    fn kept(&mut self, attempt: AttemptId) -> &mut Kept {
        self.attempts.entry(attempt).or_insert_with(|| {
            // One that is read again keeps its place.
            let age = self.unsure.get(&attempt).copied().unwrap_or_else(|| {
                self.next_age += 1;
                self.next_age
            });
            self.by_age.insert(age, attempt);
            Kept { age, ..Kept::default() }
        })
    }

    fn add(&mut self, run: Run, writes: &mut Vec<Write>) {
        let Run { attempt, stream, offset, data } = run;
        let kept = self.kept(attempt);
        let next = kept.next_offset.entry(stream).or_default();
        let Some((offset, data)) = beyond(*next, offset, data.freeze()) else { return };
        let bytes = data.len() as u64;
        *next = offset + bytes;
        writes.push(Write::put(piece_key(attempt, kept.next_number), encode(stream, offset, &data)));
        kept.push(kept.next_number, bytes);
        let age = kept.age;
        self.bytes += cost(bytes);
        self.unsure.insert(attempt, age);
    }

    /// Drops the oldest pieces of an attempt beyond its bounds.
    fn trim(&mut self, attempt: AttemptId, limit: u64, writes: &mut Vec<Write>) {
        let Some(kept) = self.attempts.get_mut(&attempt) else { return };
        while kept.pieces.len() > 1 && (kept.bytes > limit || kept.pieces.len() > PIECES_MAX) {
            let Some((number, bytes)) = kept.pieces.pop_front() else { return };
            writes.push(Write::delete(piece_key(attempt, number)));
            kept.bytes -= bytes;
            self.bytes -= cost(bytes);
            self.unsure.insert(attempt, kept.age);
        }
    }

    /// Makes room by forgetting whole attempts, those first that wrote first.
    fn evict(&mut self, writes: &mut Vec<Write>) {
        while self.bytes > self.bytes_max && self.by_age.len() > 1 {
            let Some((age, oldest)) = self.by_age.first_key_value() else { return };
            let (age, oldest) = (*age, *oldest);
            self.remove(oldest, writes);
            self.unsure.insert(oldest, age);
        }
    }

    fn remove(&mut self, attempt: AttemptId, writes: &mut Vec<Write>) {
        if let Some(kept) = self.attempts.remove(&attempt) {
            self.by_age.remove(&kept.age);
            self.bytes -= kept.pieces.iter().map(|(_, bytes)| cost(*bytes)).sum::<u64>();
            writes.extend(kept.pieces.iter().map(|(number, _)| Write::delete(piece_key(attempt, *number))));
        }
    }
}

impl Kept {
    fn push(&mut self, number: u64, bytes: u64) {
        self.pieces.push_back((number, bytes));
        self.bytes += bytes;
        self.next_number = number + 1;
    }
}

/// What a piece counts in the bound of all output.
fn cost(bytes: u64) -> u64 {
    bytes + PIECE_OVERHEAD as u64
}

const PREFIX: &str = "observed/output/";

fn prefix(task: TaskId) -> String {
    format!("{PREFIX}{task}/")
}

fn attempt_prefix(AttemptId { task, attempt }: AttemptId) -> String {
    format!("{PREFIX}{task}/{attempt:010}/")
}

fn piece_key(attempt: AttemptId, number: u64) -> Key {
    Key::new(format!("{}{number:012}", attempt_prefix(attempt))).expect("a valid key")
}

fn parse_key(key: &Key) -> Option<(AttemptId, u64)> {
    let mut parts = key.as_str().strip_prefix(PREFIX)?.split('/');
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

#[cfg(test)]
mod tests;
