//! Segments of all authors in one table.

use bytes::{Bytes, BytesMut};
use orch_core::store::Revision;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::crdt::segment::SegmentKey;

/// Chunks of segments; see [`Segments`].
const SEGMENTS: TableDefinition<'_, ChunkKey, &[u8]> = TableDefinition::new("segments");
/// Bytes of a chunk of a segment: pages are powers of two, and this leaves space for the overhead of a page.
const CHUNK_BYTES: usize = (16 << 10) - 64;

/// Segments, cut into chunks, because a page of the disk is used by one value alone when that is large. In
/// front of the first chunk is the last revision that took entries of the segment into the view.
#[derive(Debug)]
pub(super) struct Segments<T>(T);

/// Key of a segment, and the number of a chunk of it.
pub(super) type ChunkKey = (u16, u64, u16);

impl<'txn> Segments<Table<'txn, ChunkKey, &'static [u8]>> {
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self(transaction.open_table(SEGMENTS)?))
    }
}

impl Segments<ReadOnlyTable<ChunkKey, &'static [u8]>> {
    pub(super) fn open_read(transaction: &ReadTransaction) -> Result<Self, redb::Error> {
        Ok(Self(transaction.open_table(SEGMENTS)?))
    }
}

impl<T: ReadableTable<ChunkKey, &'static [u8]>> Segments<T> {
    pub(super) fn get(&self, at: SegmentKey) -> Result<Option<Bytes>, redb::Error> {
        let mut whole = BytesMut::new();
        for found in self.0.range(chunk_key(at, 0)..=chunk_key(at, u16::MAX))? {
            whole.extend_from_slice(found?.1.value());
        }
        if whole.is_empty() {
            return Ok(None);
        }
        let mut whole = whole.freeze();
        if whole.len() < REVISION_BYTES {
            return Err(corrupt("a segment"));
        }
        Ok(Some(whole.split_off(REVISION_BYTES)))
    }

    pub(super) fn next(&self, from: SegmentKey) -> Result<Option<(SegmentKey, Bytes)>, redb::Error> {
        let Some(found) = self.0.range(chunk_key(from, 0)..)?.next() else { return Ok(None) };
        let (author, position, _) = found?.0.value();
        let at = (author, position);
        Ok(self.get(at)?.map(|bytes| (at, bytes)))
    }

    /// The revision in front of it.
    pub(super) fn revision(&self, at: SegmentKey) -> Result<Option<Revision>, redb::Error> {
        let Some(first) = self.0.get(chunk_key(at, 0))? else { return Ok(None) };
        let revision = first.value().first_chunk().ok_or_else(|| corrupt("a segment"))?;
        Ok(Some(Revision(u64::from_le_bytes(*revision))))
    }
}

const REVISION_BYTES: usize = size_of::<u64>();

impl Segments<Table<'_, ChunkKey, &'static [u8]>> {
    pub(super) fn put(
        &mut self,
        at: SegmentKey,
        segment: &[u8],
        revision: Revision,
    ) -> Result<(), redb::Error> {
        let (first, rest) = segment.split_at(segment.len().min(CHUNK_BYTES - REVISION_BYTES));
        let first = [revision.0.to_le_bytes().as_slice(), first].concat();
        let mut count = 0;
        for bytes in std::iter::once(first.as_slice()).chain(rest.chunks(CHUNK_BYTES)) {
            self.0.insert(chunk_key(at, count), bytes)?;
            count += 1;
        }
        self.remove_from(at, count)
    }

    pub(super) fn remove_from(&mut self, at: SegmentKey, mut number: u16) -> Result<(), redb::Error> {
        while self.0.remove(chunk_key(at, number))?.is_some() {
            number += 1;
        }
        Ok(())
    }
}

fn chunk_key((author, position): SegmentKey, number: u16) -> ChunkKey {
    (author, position, number)
}

pub(super) fn corrupt(what: &'static str) -> redb::Error {
    redb::Error::Corrupted(format!("{what} cannot be read"))
}
