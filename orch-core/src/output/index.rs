//! Index of what is kept in this process or on its disk, with the bounds.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
};

use bytes::Bytes;

use super::{
    NewOutput, OutputPosition,
    chunks::{CHUNK_BYTES_MAX, CHUNKS_MAX, Run, beyond, cost, limits, put_together},
};
use crate::{
    model::{AttemptId, TaskId, Timestamp},
    runtime::OutputStream,
};

/// Chunks by attempt; each has a location of type `P`.
#[derive(Debug)]
pub(super) struct Index<P> {
    attempts: BTreeMap<AttemptId, Kept<P>>,
    /// Attempts by the number of their first chunk.
    by_age: BTreeMap<u64, AttemptId>,
    /// Of all chunks, with what they take beside their data.
    bytes: u64,
    bytes_max: u64,
    next_number: u64,
}

/// Kept output of one attempt.
#[derive(Debug)]
struct Kept<P> {
    age: u64,
    chunks: VecDeque<Chunk<P>>,
    bytes: u64,
    ends: BTreeMap<OutputStream, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk<P> {
    pub(super) number: u64,
    pub(super) stream: OutputStream,
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) time: Option<Timestamp>,
    pub(super) location: P,
}

/// A chunk that is not kept yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fresh {
    pub(super) attempt: AttemptId,
    pub(super) limit: u64,
    /// Number of the first chunk of the attempt.
    pub(super) age: u64,
    pub(super) number: u64,
    pub(super) stream: OutputStream,
    pub(super) offset: u64,
    pub(super) time: Option<Timestamp>,
    pub(super) data: Bytes,
}

impl<P> Index<P> {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { attempts: BTreeMap::new(), by_age: BTreeMap::new(), bytes: 0, bytes_max, next_number: 0 }
    }

    /// New parts of these chunks, merged, with the numbers that they will have. Changes nothing.
    pub(super) fn fresh(&self, chunks: Vec<NewOutput>) -> Vec<Fresh> {
        let limits = limits(&chunks);
        let mut ends: BTreeMap<(AttemptId, OutputStream), u64> = BTreeMap::new();
        let mut ages: BTreeMap<AttemptId, u64> = BTreeMap::new();
        let mut number = self.next_number;
        let mut fresh = Vec::new();
        for Run { attempt, stream, offset, time, data } in put_together(chunks, CHUNK_BYTES_MAX) {
            let kept = self.attempts.get(&attempt);
            let known = || kept.and_then(|kept| kept.ends.get(&stream)).copied().unwrap_or_default();
            let end = ends.entry((attempt, stream)).or_insert_with(known);
            let Some((offset, data)) = beyond(*end, offset, data.freeze()) else { continue };
            *end = offset + data.len() as u64;
            let age = *ages.entry(attempt).or_insert_with(|| kept.map_or(number, |kept| kept.age));
            let limit = limits.get(&attempt).copied().unwrap_or(u64::MAX);
            fresh.push(Fresh { attempt, limit, age, number, stream, offset, time, data });
            number += 1;
        }
        fresh
    }

    /// Leaves out the numbers of chunks that may have been written and are not taken in.
    pub(super) fn skip(&mut self, fresh: &[Fresh]) {
        if let Some(last) = fresh.last() {
            self.next_number = self.next_number.max(last.number + 1);
        }
    }

    /// Takes in the next chunk of an attempt, whose first one has the number `age`.
    pub(super) fn insert(&mut self, attempt: AttemptId, age: u64, chunk: Chunk<P>) {
        let kept = self.attempts.entry(attempt).or_insert_with(|| {
            self.by_age.insert(age, attempt);
            Kept { age, chunks: VecDeque::new(), bytes: 0, ends: BTreeMap::new() }
        });
        let end = kept.ends.entry(chunk.stream).or_default();
        *end = (*end).max(chunk.offset + chunk.bytes);
        kept.bytes += chunk.bytes;
        self.bytes += cost(chunk.bytes);
        self.next_number = self.next_number.max(chunk.number + 1);
        kept.chunks.push_back(chunk);
    }

    /// Drops the oldest chunks of an attempt beyond its bounds.
    pub(super) fn trim(&mut self, attempt: AttemptId, limit: u64, dropped: &mut Vec<Chunk<P>>) {
        let Some(kept) = self.attempts.get_mut(&attempt) else { return };
        let too_much = |kept: &Kept<P>| {
            let all = kept.bytes + cost(0) * kept.chunks.len() as u64;
            kept.bytes > limit || all > self.bytes_max || kept.chunks.len() > CHUNKS_MAX
        };
        while kept.chunks.len() > 1 && too_much(kept) {
            let Some(chunk) = kept.chunks.pop_front() else { return };
            kept.bytes -= chunk.bytes;
            self.bytes -= cost(chunk.bytes);
            dropped.push(chunk);
        }
    }

    /// Frees space by forgetting entire attempts, those first that wrote first.
    pub(super) fn evict(&mut self, dropped: &mut Vec<Chunk<P>>) {
        while self.bytes > self.bytes_max && self.by_age.len() > 1 {
            let Some((_, oldest)) = self.by_age.first_key_value() else { return };
            self.remove(*oldest, dropped);
        }
    }

    pub(super) fn forget(&mut self, task: TaskId, dropped: &mut Vec<Chunk<P>>) {
        let attempts: Vec<_> = self.attempts.range(all_of(task)).map(|(attempt, _)| *attempt).collect();
        for attempt in attempts {
            self.remove(attempt, dropped);
        }
    }

    fn remove(&mut self, attempt: AttemptId, dropped: &mut Vec<Chunk<P>>) {
        if let Some(kept) = self.attempts.remove(&attempt) {
            self.by_age.remove(&kept.age);
            self.bytes -= kept.chunks.iter().map(|chunk| cost(chunk.bytes)).sum::<u64>();
            dropped.extend(kept.chunks);
        }
    }

    pub(super) fn get_mut(&mut self, attempt: AttemptId, number: u64) -> Option<&mut Chunk<P>> {
        let chunks = &mut self.attempts.get_mut(&attempt)?.chunks;
        let at = chunks.binary_search_by_key(&number, |chunk| chunk.number).ok()?;
        chunks.get_mut(at)
    }

    /// The chunks of a task after `after`.
    pub(super) fn after(
        &self,
        task: TaskId,
        after: Option<OutputPosition>,
    ) -> impl Iterator<Item = (OutputPosition, &Chunk<P>)> {
        let first = after.map_or(NonZeroU32::MIN, |after| after.attempt);
        let attempts = self.attempts.range(AttemptId { task, attempt: first }..=*all_of(task).end());
        attempts.flat_map(move |(id, kept)| {
            let attempt = id.attempt;
            let skipped = match after {
                Some(after) if after.attempt == attempt => {
                    kept.chunks.partition_point(|chunk| chunk.number <= after.number)
                }
                _ => 0,
            };
            let at = move |chunk: &Chunk<P>| OutputPosition { attempt, number: chunk.number };
            kept.chunks.range(skipped..).map(move |chunk| (at(chunk), chunk))
        })
    }

    /// See [`OutputStore::place_of_last`](super::OutputStore::place_of_last).
    pub(super) fn place_of_last(
        &self,
        task: TaskId,
        attempt: Option<NonZeroU32>,
        bytes: u64,
    ) -> Option<OutputPosition> {
        let chunks = self.attempts.range(some_of(task, attempt)).rev().flat_map(|(id, kept)| {
            let at = |chunk: &Chunk<P>| OutputPosition { attempt: id.attempt, number: chunk.number };
            kept.chunks.iter().rev().map(move |chunk| (at(chunk), chunk.bytes))
        });
        OutputPosition::before_last(chunks, bytes)
    }

    /// See [`OutputStore::place_since`](super::OutputStore::place_since).
    pub(super) fn place_since(
        &self,
        task: TaskId,
        attempt: Option<NonZeroU32>,
        since: Timestamp,
    ) -> Option<OutputPosition> {
        let chunks = self.attempts.range(some_of(task, attempt)).flat_map(|(id, kept)| {
            let at = |chunk: &Chunk<P>| OutputPosition { attempt: id.attempt, number: chunk.number };
            kept.chunks.iter().map(move |chunk| (at(chunk), chunk.time))
        });
        // One after the other: clocks go back at times, and then the times are not sorted.
        chunks.take_while(|(_, time)| *time < Some(since)).last().map(|(position, _)| position)
    }

    pub(super) fn tasks(&self) -> Vec<TaskId> {
        let mut tasks: Vec<TaskId> = self.attempts.keys().map(|attempt| attempt.task).collect();
        tasks.dedup();
        tasks
    }
}

fn all_of(task: TaskId) -> std::ops::RangeInclusive<AttemptId> {
    AttemptId { task, attempt: NonZeroU32::MIN }..=AttemptId { task, attempt: NonZeroU32::MAX }
}

fn some_of(task: TaskId, attempt: Option<NonZeroU32>) -> std::ops::RangeInclusive<AttemptId> {
    match attempt {
        Some(attempt) => AttemptId { task, attempt }..=AttemptId { task, attempt },
        None => all_of(task),
    }
}
