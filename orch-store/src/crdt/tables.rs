//! Where a replica keeps what has to last: a few ordered tables that change together.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ops::{Bound, ControlFlow},
};

use bytes::Bytes;
use orch_core::store::Revision;

use super::record::Record;

/// A segment's place: the author's number in this replica, and the position.
pub type At = (u16, u64);

/// What a [`Replica`](super::Replica) reads of what it keeps.
pub trait Lookup {
    /// Why something cannot be read or written.
    type Error;

    /// What is stored makes no sense.
    fn corrupt(what: &'static str) -> Self::Error;

    /// A small record of the replica itself.
    ///
    /// # Errors
    /// When it cannot be read.
    fn meta(&self, name: &str) -> Result<Option<Bytes>, Self::Error>;

    /// The segment at a place.
    ///
    /// # Errors
    /// When it cannot be read.
    fn segment(&self, at: At) -> Result<Option<Bytes>, Self::Error>;

    /// What the view has under a key.
    ///
    /// # Errors
    /// When it cannot be read.
    fn record(&self, key: &str) -> Result<Option<Record>, Self::Error>;
}

/// What one step of a [`Replica`](super::Replica) reads and changes. The host commits the changes of a step together, or
/// drops the replica when it cannot; what a step wants to send leaves only afterwards.
pub trait Tables: Lookup {
    /// Stores a small record, or removes it.
    ///
    /// # Errors
    /// When it cannot be written.
    fn put_meta(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), Self::Error>;

    /// The first segment at this place or after it.
    ///
    /// # Errors
    /// When it cannot be read.
    fn next_segment(&self, from: At) -> Result<Option<(At, Bytes)>, Self::Error>;

    /// Stores a segment. `revision` is the last one that takes entries of it into the view.
    ///
    /// # Errors
    /// When it cannot be written.
    fn put_segment(&mut self, at: At, segment: &[u8], revision: Revision) -> Result<(), Self::Error>;

    /// Removes a segment.
    ///
    /// # Errors
    /// When it cannot be written.
    fn remove_segment(&mut self, at: At) -> Result<(), Self::Error>;

    /// Whether the host still reads the entries of this segment for its history, so that none of them may be collected.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn is_in_history(&self, at: At) -> Result<bool, Self::Error>;

    /// What is known of a segment that holds something to collect.
    ///
    /// # Errors
    /// When it cannot be read.
    fn garbage(&self, at: At) -> Result<Option<Bytes>, Self::Error>;

    /// The first such note at this place or after it.
    ///
    /// # Errors
    /// When it cannot be read.
    fn next_garbage(&self, from: At) -> Result<Option<(At, Bytes)>, Self::Error>;

    /// Stores such a note, or removes it.
    ///
    /// # Errors
    /// When it cannot be written.
    fn put_garbage(&mut self, at: At, note: Option<&[u8]>) -> Result<(), Self::Error>;

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
    segments: BTreeMap<At, Bytes>,
    garbage: BTreeMap<At, Bytes>,
    view: BTreeMap<String, Bytes>,
}

impl MemoryTables {
    /// How many segments, and how many bytes they have.
    #[must_use]
    pub fn segments(&self) -> (usize, usize) {
        (self.segments.len(), self.segments.values().map(Bytes::len).sum())
    }

    /// How many keys the view holds, deleted ones that are not forgotten yet among them.
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

    fn segment(&self, at: At) -> Result<Option<Bytes>, Infallible> {
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

    fn next_segment(&self, from: At) -> Result<Option<(At, Bytes)>, Infallible> {
        Ok(self.segments.range(from..).next().map(|(at, bytes)| (*at, bytes.clone())))
    }

    fn put_segment(&mut self, at: At, segment: &[u8], _: Revision) -> Result<(), Infallible> {
        self.segments.insert(at, Bytes::copy_from_slice(segment));
        Ok(())
    }

    fn remove_segment(&mut self, at: At) -> Result<(), Infallible> {
        self.segments.remove(&at);
        Ok(())
    }

    /// There is no history in memory.
    fn is_in_history(&self, _: At) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn garbage(&self, at: At) -> Result<Option<Bytes>, Infallible> {
        Ok(self.garbage.get(&at).cloned())
    }

    fn next_garbage(&self, from: At) -> Result<Option<(At, Bytes)>, Infallible> {
        Ok(self.garbage.range(from..).next().map(|(at, note)| (*at, note.clone())))
    }

    fn put_garbage(&mut self, at: At, note: Option<&[u8]>) -> Result<(), Infallible> {
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
