//! Durable tables of a replica: a few ordered ones that change together.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ops::{Bound, ControlFlow},
};

use bytes::Bytes;
use orch_core::store::Revision;

use super::{record::Record, segment::SegmentKey};

/// Read access of a [`Replica`](super::replica::Replica) to its tables.
pub trait Lookup {
    /// Why something cannot be read or written.
    type Error;

    /// Error of stored bytes that cannot be decoded.
    fn corrupt(what: &'static str) -> Self::Error;

    /// A small record of the replica itself.
    ///
    /// # Errors
    /// When it cannot be read.
    fn meta(&self, name: &str) -> Result<Option<Bytes>, Self::Error>;

    /// The segment under a key.
    ///
    /// # Errors
    /// When it cannot be read.
    fn segment(&self, at: SegmentKey) -> Result<Option<Bytes>, Self::Error>;

    /// Record of the view under a key.
    ///
    /// # Errors
    /// When it cannot be read.
    fn record(&self, key: &str) -> Result<Option<Record>, Self::Error>;
}

/// Tables that one step of a [`Replica`](super::replica::Replica) reads and changes. The host commits the
/// changes of a step together, or drops the replica when it cannot; what a step wants to send leaves only
/// afterwards.
pub trait Tables: Lookup {
    /// Stores a small record, or removes it.
    ///
    /// # Errors
    /// When it cannot be written.
    fn put_meta(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), Self::Error>;

    /// The first segment at this key or after it.
    ///
    /// # Errors
    /// When it cannot be read.
    fn next_segment(&self, from: SegmentKey) -> Result<Option<(SegmentKey, Bytes)>, Self::Error>;

    /// Stores a segment. `revision` is the last one that takes entries of it into the view.
    ///
    /// # Errors
    /// When it cannot be written.
    fn put_segment(&mut self, at: SegmentKey, segment: &[u8], revision: Revision) -> Result<(), Self::Error>;

    /// Removes a segment.
    ///
    /// # Errors
    /// When it cannot be written.
    fn remove_segment(&mut self, at: SegmentKey) -> Result<(), Self::Error>;

    /// True if the host still reads the entries of this segment for its history, so that none of them may be
    /// collected.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn is_in_history(&self, at: SegmentKey) -> Result<bool, Self::Error>;

    /// Garbage note of a segment that holds something to collect.
    ///
    /// # Errors
    /// When it cannot be read.
    fn garbage(&self, at: SegmentKey) -> Result<Option<Bytes>, Self::Error>;

    /// The first such note at this key or after it.
    ///
    /// # Errors
    /// When it cannot be read.
    fn next_garbage(&self, from: SegmentKey) -> Result<Option<(SegmentKey, Bytes)>, Self::Error>;

    /// Stores such a note, or removes it.
    ///
    /// # Errors
    /// When it cannot be written.
    fn put_garbage(&mut self, at: SegmentKey, note: Option<&[u8]>) -> Result<(), Self::Error>;

    /// Stores a record of the view, or removes it. Returns what was there.
    ///
    /// # Errors
    /// When it cannot be written.
    fn swap_record(&mut self, key: &str, record: Option<&Record>) -> Result<Option<Record>, Self::Error>;

    /// Shows the records from `from` on in order of their keys.
    ///
    /// # Errors
    /// When they cannot be read.
    fn each_record(
        &self,
        from: Bound<&str>,
        visit: &mut dyn FnMut(&str, Record) -> ControlFlow<()>,
    ) -> Result<(), Self::Error>;
}

/// Tables in memory, for simulations and tests. A clone is what a disk would hold at that moment.
#[derive(Clone, Debug, Default)]
pub struct MemoryTables {
    meta: BTreeMap<String, Bytes>,
    segments: BTreeMap<SegmentKey, Bytes>,
    garbage: BTreeMap<SegmentKey, Bytes>,
    view: BTreeMap<String, Bytes>,
}

impl MemoryTables {
    /// Number of segments and their bytes.
    #[must_use]
    pub fn segments(&self) -> (usize, usize) {
        (self.segments.len(), self.segments.values().map(Bytes::len).sum())
    }

    /// Number of keys in the view, with deleted ones that are not forgotten yet.
    #[must_use]
    pub fn records(&self) -> usize {
        self.view.len()
    }
}

fn read(bytes: Bytes) -> Record {
    Record::decode(bytes).expect("memory keeps what it was given")
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

impl Lookup for MemoryTables {
    type Error = Infallible;

    fn corrupt(what: &'static str) -> Infallible {
        unreachable!("memory keeps what it was given: {what}")
    }

    fn meta(&self, name: &str) -> Result<Option<Bytes>, Infallible> {
        Ok(self.meta.get(name).cloned())
    }

    fn segment(&self, at: SegmentKey) -> Result<Option<Bytes>, Infallible> {
        Ok(self.segments.get(&at).cloned())
    }

    fn record(&self, key: &str) -> Result<Option<Record>, Infallible> {
        Ok(self.view.get(key).cloned().map(read))
    }
}

impl Tables for MemoryTables {
    fn put_meta(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), Infallible> {
        set(&mut self.meta, name.to_owned(), value.map(Bytes::copy_from_slice));
        Ok(())
    }

    fn next_segment(&self, from: SegmentKey) -> Result<Option<(SegmentKey, Bytes)>, Infallible> {
        Ok(self.segments.range(from..).next().map(|(at, bytes)| (*at, bytes.clone())))
    }

    fn put_segment(&mut self, at: SegmentKey, segment: &[u8], _: Revision) -> Result<(), Infallible> {
        self.segments.insert(at, Bytes::copy_from_slice(segment));
        Ok(())
    }

    fn remove_segment(&mut self, at: SegmentKey) -> Result<(), Infallible> {
        self.segments.remove(&at);
        Ok(())
    }

    /// There is no history in memory.
    fn is_in_history(&self, _: SegmentKey) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn garbage(&self, at: SegmentKey) -> Result<Option<Bytes>, Infallible> {
        Ok(self.garbage.get(&at).cloned())
    }

    fn next_garbage(&self, from: SegmentKey) -> Result<Option<(SegmentKey, Bytes)>, Infallible> {
        Ok(self.garbage.range(from..).next().map(|(at, note)| (*at, note.clone())))
    }

    fn put_garbage(&mut self, at: SegmentKey, note: Option<&[u8]>) -> Result<(), Infallible> {
        set(&mut self.garbage, at, note.map(Bytes::copy_from_slice));
        Ok(())
    }

    fn swap_record(&mut self, key: &str, record: Option<&Record>) -> Result<Option<Record>, Infallible> {
        let record = record.map(|record| {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            bytes.into()
        });
        Ok(set(&mut self.view, key.to_owned(), record).map(read))
    }

    fn each_record(
        &self,
        from: Bound<&str>,
        visit: &mut dyn FnMut(&str, Record) -> ControlFlow<()>,
    ) -> Result<(), Infallible> {
        for (key, record) in self.view.range::<str, _>((from, Bound::Unbounded)) {
            if visit(key, read(record.clone())).is_break() {
                break;
            }
        }
        Ok(())
    }
}
