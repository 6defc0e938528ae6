//! Chunks that arrive together, merged and cut to a size.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::NewOutput;
use crate::{
    model::{AttemptId, Timestamp},
    runtime::OutputStream,
};

/// The most bytes of a chunk. Smaller ones that follow each other are put together, larger ones are cut.
pub(super) const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Overhead of a chunk beside its data (its key or header, its index entry), rounded up.
pub(super) const CHUNK_OVERHEAD: usize = 128;
/// Highest cost of the chunks of one page, without the last one.
pub(super) const PAGE_BYTES: u64 = 1 << 20;
/// The most chunks kept of one attempt.
pub(super) const CHUNKS_MAX: usize = 16_384;

/// Cost of a chunk in the bound of all output.
pub(super) fn cost(bytes: u64) -> u64 {
    bytes + CHUNK_OVERHEAD as u64
}

/// Merged chunks.
pub(super) struct Run {
    pub(super) attempt: AttemptId,
    pub(super) stream: OutputStream,
    pub(super) offset: u64,
    pub(super) time: Option<Timestamp>,
    pub(super) data: BytesMut,
}

/// The latest limit of each attempt.
pub(super) fn limits(chunks: &[NewOutput]) -> BTreeMap<AttemptId, u64> {
    chunks.iter().map(|chunk| (chunk.attempt, chunk.limit)).collect()
}

/// Joins what goes on where the chunk before it of the same attempt ended and was taken in at the same time,
/// and cuts to `most` bytes. The order of both streams of an attempt stays.
pub(super) fn put_together(chunks: Vec<NewOutput>, most: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut latest: BTreeMap<AttemptId, usize> = BTreeMap::new();
    for NewOutput { attempt, stream, mut offset, time, mut data, .. } in chunks {
        while !data.is_empty() {
            let open = latest.get(&attempt).and_then(|at| runs.get_mut(*at)).filter(|run| {
                let goes_on = run.stream == stream && run.offset + run.data.len() as u64 == offset;
                goes_on && run.time == time && run.data.len() < most
            });
            let left = most - open.as_ref().map_or(0, |run| run.data.len());
            let part = data.split_to(left.min(data.len()));
            let start = offset;
            offset += part.len() as u64;
            match open {
                Some(run) => run.data.extend_from_slice(&part),
                None => {
                    latest.insert(attempt, runs.len());
                    runs.push(Run { attempt, stream, offset: start, time, data: part.into() });
                }
            }
        }
    }
    runs
}

/// The part of `data`, which begins at `offset`, that lies beyond `end`, and where it begins.
pub(crate) fn beyond(end: u64, offset: u64, mut data: Bytes) -> Option<(u64, Bytes)> {
    let repeated = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
    (repeated < data.len()).then(|| (offset.max(end), data.split_off(repeated)))
}
