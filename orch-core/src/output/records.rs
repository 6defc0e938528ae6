//! Output as records of a state store, in chunks.
//!
//! A chunk is a record `observed/output/<task>/<attempt>/<number>`: a line of JSON that says where it
//! belongs, then the bytes as they were written. Numbers give the order in which chunks arrived, both streams
//! together.
//!
//! A chunk may be stored twice, under one number or two, when nobody knows whether a commit happened. Offsets
//! show it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    num::NonZeroU32,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, future};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{
    KeptOutput, NewOutput, OutputError, OutputPage, OutputPosition, OutputStore, OutputWatch,
    chunks::{CHUNK_BYTES_MAX, CHUNK_OVERHEAD, CHUNKS_MAX, Run, beyond, cost, limits, put_together},
};
use crate::{
    model::{AttemptId, TaskId, Timestamp},
    runtime::OutputStream,
    store::{
        CommitError, Entry, Guard, Key, StateStore, StateStoreExt as _, StoreCapabilities, StoreError, Write,
        chunked_txns,
    },
};

/// [`OutputStore`] in a [`StateStore`], for members that share it: each can read what another one received.
/// Where the store keeps a history of writes or copies of them, output takes that much more space, also after
/// it was forgotten, and each follower watches the store. For one process with a disk
/// [`FileOutput`](super::FileOutput) takes less.
#[derive(Debug)]
pub struct StoreOutput {
    store: Arc<dyn StateStore>,
    limits: StoreCapabilities,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    attempts: BTreeMap<AttemptId, Kept>,
    /// Attempts by age of their first chunk.
    by_age: BTreeMap<u64, AttemptId>,
    next_age: u64,
    /// Beyond those of all chunks. An attempt that was forgotten and writes again goes on from here.
    next_number: u64,
    /// Of all chunks, with what they take beside their data.
    bytes: u64,
    bytes_max: u64,
    /// Attempts, with their age where they have one, of which the store may hold something else than is
    /// written here. Not empty after a commit that failed or that nobody waited for.
    unsure: BTreeMap<AttemptId, Option<u64>>,
}

/// Kept output of one attempt.
#[derive(Debug, Default)]
struct Kept {
    age: u64,
    /// Numbers and bytes.
    chunks: VecDeque<(u64, u64)>,
    bytes: u64,
    next_number: u64,
    next_offset: BTreeMap<OutputStream, u64>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    v: u8,
    stream: OutputStream,
    offset: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
}

impl StoreOutput {
    /// Reads the output of an earlier incarnation. Up to `bytes_max` bytes are kept from now on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(store: Arc<dyn StateStore>, bytes_max: u64) -> Result<Self, OutputError> {
        let mut index = Index { bytes_max, ..Index::default() };
        index.read(&*store, PREFIX).await?;
        Ok(Self { limits: store.capabilities(), store, index: Mutex::new(index) })
    }

    async fn write(&self, chunks: Vec<NewOutput>) -> Result<(), StoreError> {
        let mut index = self.index.lock().await;
        let limits = limits(&chunks);
        if self.limits.shared {
            index.doubt_unknown(limits.keys());
        }
        let most = self.limits.max_value_bytes.saturating_sub(CHUNK_OVERHEAD).clamp(1, CHUNK_BYTES_MAX);
        loop {
            index.look_again(&*self.store).await?;
            let mut writes = Vec::new();
            for run in put_together(chunks.clone(), most) {
                index.add(run, &mut writes);
            }
            for (attempt, limit) in &limits {
                index.trim(*attempt, *limit, &mut writes);
            }
            index.evict(&mut writes);
            match self.commit(writes).await {
                Ok(()) => break,
                // Another member received output of the attempt, too: what is here is not all there is.
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(error.of_unguarded(self.limits.name)),
            }
        }
        index.unsure.clear();
        Ok(())
    }

    /// Writes in transactions that the store accepts. Where others write as well, nothing of theirs is
    /// replaced.
    async fn commit(&self, writes: Vec<Write>) -> Result<(), CommitError> {
        let guarded = self.limits.shared && self.limits.compare_and_swap;
        for mut txn in chunked_txns(&self.limits, writes) {
            if guarded {
                let deleted: BTreeSet<&Key> =
                    txn.writes.iter().filter(|write| write.value.is_none()).map(|write| &write.key).collect();
                let put = txn.writes.iter().filter(|write| write.value.is_some());
                let put = put.map(|write| &write.key).filter(|key| !deleted.contains(key));
                txn.guards = put.map(|key| Guard::Absent(key.clone())).collect();
            }
            self.store.commit(txn).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl OutputStore for StoreOutput {
    async fn append(&self, chunks: Vec<NewOutput>) -> Result<(), OutputError> {
        if chunks.is_empty() {
            return Ok(());
        }
        Ok(self.write(chunks).await?)
    }

    async fn read(&self, task: TaskId, after: Option<OutputPosition>) -> Result<OutputPage, OutputError> {
        const PAGE: usize = 64;
        let after =
            after.map(|OutputPosition { attempt, number }| chunk_key(AttemptId { task, attempt }, number));
        let page = self.store.scan(&prefix(task), after.as_ref(), PAGE).await?;
        let last = page.entries.iter().rev().find_map(|entry| parse_key(&entry.key));
        let position = |(AttemptId { attempt, .. }, number)| OutputPosition { attempt, number };
        Ok(OutputPage {
            chunks: page.entries.iter().filter_map(|entry| decode(&entry.key, &entry.value)).collect(),
            more: last.filter(|_| page.more).map(position),
        })
    }

    async fn follow(&self, task: TaskId) -> Result<OutputWatch, OutputError> {
        let watch = self.store.watch(&prefix(task), self.store.head().await?).await?;
        let appended = |batch: Result<crate::store::WatchBatch, StoreError>| match batch {
            Ok(batch) => batch.writes.iter().any(|write| write.value.is_some()).then_some(Ok(())),
            Err(error) => Some(Err(error.into())),
        };
        Ok(watch.filter_map(move |batch| future::ready(appended(batch))).boxed())
    }

    async fn forget(&self, tasks: &[TaskId]) -> Result<(), OutputError> {
        let mut index = self.index.lock().await;
        index.look_again(&*self.store).await?;
        let mut writes = Vec::new();
        for task in tasks {
            index.forget(*task, &mut writes);
        }
        self.commit(writes).await.map_err(|error| error.of_unguarded(self.limits.name))?;
        index.unsure.clear();
        Ok(())
    }

    async fn tasks(&self) -> Vec<TaskId> {
        let mut tasks: Vec<_> = self.index.lock().await.attempts.keys().map(|attempt| attempt.task).collect();
        tasks.dedup();
        tasks
    }

    async fn sync(&self) -> Result<(), OutputError> {
        Ok(())
    }
}

/// Moves what a store holds of output to another store, for attempts that have a limit there, and deletes all
/// of it. Stopped at any point, it can be done again.
pub(crate) async fn move_out(
    store: &dyn StateStore,
    to: &dyn OutputStore,
    limit: impl Fn(AttemptId) -> Option<u64>,
) -> Result<u64, OutputError> {
    const PAGE: usize = 64;
    let mut moved = 0;
    loop {
        let page = store.scan(PREFIX, None, PAGE).await?;
        if page.entries.is_empty() {
            return Ok(moved);
        }
        let chunk = |Entry { key, value, .. }: &Entry| {
            let (attempt, _) = parse_key(key)?;
            let KeptOutput { stream, offset, time, data, .. } = decode(key, value)?;
            Some(NewOutput { attempt, limit: limit(attempt)?, stream, offset, time, data })
        };
        to.append(page.entries.iter().filter_map(chunk).collect()).await?;
        to.sync().await?;
        moved += page.entries.len() as u64;
        let deleted = page.entries.into_iter().map(|entry| Write::delete(entry.key)).collect();
        store.write_all(deleted).await?;
    }
}

impl Index {
    /// Another member may have kept something of attempts that are not known here.
    fn doubt_unknown<'a>(&mut self, attempts: impl Iterator<Item = &'a AttemptId>) {
        for attempt in attempts.filter(|attempt| !self.attempts.contains_key(*attempt)) {
            self.unsure.entry(*attempt).or_insert(None);
        }
    }

    /// Adds everything under `prefix` that the store holds.
    async fn read(&mut self, store: &dyn StateStore, prefix: &str) -> Result<(), StoreError> {
        let mut pages = store.pages(prefix, 256);
        while let Some(page) = pages.next().await? {
            for Entry { key, value, .. } in &page.entries {
                self.restore(key, value);
            }
        }
        Ok(())
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
        let Some(KeptOutput { stream, offset, data, .. }) = decode(key, value) else { return };
        let kept = self.kept(attempt);
        let bytes = data.len() as u64;
        kept.push(number, bytes);
        let next = kept.next_offset.entry(stream).or_default();
        *next = (*next).max(offset.saturating_add(bytes));
        self.bytes += cost(bytes);
        self.next_number = self.next_number.max(number + 1);
    }

    fn kept(&mut self, attempt: AttemptId) -> &mut Kept {
        self.attempts.entry(attempt).or_insert_with(|| {
            // One that is read again keeps its number.
            let age = self.unsure.get(&attempt).copied().flatten().unwrap_or_else(|| {
                self.next_age += 1;
                self.next_age
            });
            self.by_age.insert(age, attempt);
            Kept { age, next_number: self.next_number, ..Kept::default() }
        })
    }

    fn add(&mut self, run: Run, writes: &mut Vec<Write>) {
        let Run { attempt, stream, offset, time, data } = run;
        let kept = self.kept(attempt);
        let next = kept.next_offset.entry(stream).or_default();
        let Some((offset, data)) = beyond(*next, offset, data.freeze()) else { return };
        let bytes = data.len() as u64;
        *next = offset + bytes;
        let number = kept.next_number;
        writes.push(Write::put(chunk_key(attempt, number), encode(stream, offset, time, &data)));
        kept.push(number, bytes);
        let age = kept.age;
        self.bytes += cost(bytes);
        self.next_number = self.next_number.max(number + 1);
        self.unsure.insert(attempt, Some(age));
    }

    /// Drops the oldest chunks of an attempt beyond its bounds.
    fn trim(&mut self, attempt: AttemptId, limit: u64, writes: &mut Vec<Write>) {
        let Some(kept) = self.attempts.get_mut(&attempt) else { return };
        while kept.chunks.len() > 1 && (kept.bytes > limit || kept.chunks.len() > CHUNKS_MAX) {
            let Some((number, bytes)) = kept.chunks.pop_front() else { return };
            writes.push(Write::delete(chunk_key(attempt, number)));
            kept.bytes -= bytes;
            self.bytes -= cost(bytes);
            self.unsure.insert(attempt, Some(kept.age));
        }
    }

    /// Frees space by forgetting entire attempts, those first that wrote first.
    fn evict(&mut self, writes: &mut Vec<Write>) {
        while self.bytes > self.bytes_max && self.by_age.len() > 1 {
            let Some((age, oldest)) = self.by_age.first_key_value() else { return };
            let (age, oldest) = (*age, *oldest);
            self.remove(oldest, writes);
            self.unsure.insert(oldest, Some(age));
        }
    }

    fn forget(&mut self, task: TaskId, writes: &mut Vec<Write>) {
        let all = AttemptId { task, attempt: NonZeroU32::MIN }..=AttemptId { task, attempt: NonZeroU32::MAX };
        let attempts: Vec<_> = self.attempts.range(all).map(|(attempt, kept)| (*attempt, kept.age)).collect();
        for (attempt, age) in attempts {
            self.remove(attempt, writes);
            self.unsure.insert(attempt, Some(age));
        }
    }

    fn remove(&mut self, attempt: AttemptId, writes: &mut Vec<Write>) {
        if let Some(kept) = self.attempts.remove(&attempt) {
            self.by_age.remove(&kept.age);
            self.bytes -= kept.chunks.iter().map(|(_, bytes)| cost(*bytes)).sum::<u64>();
            writes.extend(kept.chunks.iter().map(|(number, _)| Write::delete(chunk_key(attempt, *number))));
        }
    }
}

impl Kept {
    fn push(&mut self, number: u64, bytes: u64) {
        self.chunks.push_back((number, bytes));
        self.bytes += bytes;
        self.next_number = number + 1;
    }
}

const PREFIX: &str = "observed/output/";

fn prefix(task: TaskId) -> String {
    format!("{PREFIX}{task}/")
}

fn attempt_prefix(AttemptId { task, attempt }: AttemptId) -> String {
    format!("{PREFIX}{task}/{attempt:010}/")
}

fn chunk_key(attempt: AttemptId, number: u64) -> Key {
    Key::new(format!("{}{number:012}", attempt_prefix(attempt))).expect("a valid key")
}

fn parse_key(key: &Key) -> Option<(AttemptId, u64)> {
    let mut parts = key.as_str().strip_prefix(PREFIX)?.split('/');
    let (task, attempt, number) = (parts.next()?, parts.next()?, parts.next()?);
    Some((AttemptId { task: task.parse().ok()?, attempt: attempt.parse().ok()? }, number.parse().ok()?))
}

fn encode(stream: OutputStream, offset: u64, time: Option<Timestamp>, data: &[u8]) -> Bytes {
    let header =
        serde_json::to_vec(&Header { v: 1, stream, offset, time }).expect("plain data has a JSON form");
    let mut value = BytesMut::with_capacity(header.len() + 1 + data.len());
    value.extend_from_slice(&header);
    value.extend_from_slice(b"\n");
    value.extend_from_slice(data);
    value.freeze()
}

/// A chunk that cannot be read (a newer version wrote it) is passed over: output is not worth failing for.
fn decode(key: &Key, value: &Bytes) -> Option<KeptOutput> {
    let (AttemptId { attempt, .. }, number) = parse_key(key)?;
    let end = value.iter().position(|byte| *byte == b'\n')?;
    let header: Header =
        serde_json::from_slice(&value[..end]).ok().filter(|header: &Header| header.v == 1)?;
    Some(KeptOutput {
        position: OutputPosition { attempt, number },
        stream: header.stream,
        offset: header.offset,
        time: header.time,
        data: value.slice(end + 1..),
    })
}

#[cfg(test)]
mod tests;
