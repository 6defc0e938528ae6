//! Reading one key at a level.

use bytes::Bytes;
use orch_core::store::Key;

use super::Replica;
use crate::crdt::{merkle::Hash, record::Candidate, segment::Segment, tables::Lookup};

/// Confirmation level of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// Newest write observed.
    Optimistic,
    /// Value that a decision confirmed; where there is none for the key, what was written last by as many
    /// authors as are needed, each of which still says the same. At least one of them does not lie.
    Confirmed,
}

impl Replica {
    /// The value of a key.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub fn read<T: Lookup>(
        &self,
        tables: &T,
        key: &Key,
        level: ReadLevel,
    ) -> Result<Option<Bytes>, T::Error> {
        match level {
            ReadLevel::Optimistic => Ok(tables.record(key.as_str())?.and_then(|record| record.value)),
            ReadLevel::Confirmed => confirmed(tables, key, self.config.confirmations.get()),
        }
    }
}

/// Confirmed value of a key, where so many authors have to say the same.
pub(in crate::crdt) fn confirmed<T: Lookup>(
    tables: &T,
    key: &Key,
    needed: usize,
) -> Result<Option<Bytes>, T::Error> {
    if let Some(stored) = tables.meta(&confirmed_name(key.as_str()))? {
        let Some(hash) = stored.first_chunk() else { return Err(T::corrupt("a confirmed value")) };
        let hash = Hash(*hash);
        let value = stored.slice(hash.0.len()..);
        return if Hash::of(&value) == hash { Ok(Some(value)) } else { value_with_hash(tables, key, hash) };
    }
    let Some(record) = tables.record(key.as_str())? else { return Ok(None) };
    if needed == 1 {
        return Ok(record.value);
    }
    let all: Vec<Candidate> = std::iter::once(record.winner()).chain(record.others.clone()).collect();
    match agreed(&all, needed) {
        Some(Some(hash)) => value_with_hash(tables, key, hash),
        Some(None) | None => Ok(None),
    }
}

/// Value that enough authors agree on, if they do. They come with the latest first. Of several, that which
/// was complete last.
fn agreed(all: &[Candidate], needed: usize) -> Option<Option<Hash>> {
    let complete = |hash: Option<Hash>| {
        all.iter().filter(|candidate| candidate.hash == hash).nth(needed - 1).map(|last| (last.stamp, hash))
    };
    all.iter().filter_map(|candidate| complete(candidate.hash)).max().map(|(_, hash)| hash)
}

/// Key of a confirmed value's record: its hash, then the value if it was there.
pub(super) fn confirmed_name(key: &str) -> String {
    format!("confirmed/{key}")
}

/// The value of a key that has this hash, among all that are known.
pub(super) fn value_with_hash<T: Lookup>(
    tables: &T,
    key: &Key,
    hash: Hash,
) -> Result<Option<Bytes>, T::Error> {
    let Some(record) = tables.record(key.as_str())? else { return Ok(None) };
    if let Some(value) = record.value.as_ref().filter(|value| Hash::of(value) == hash) {
        return Ok(Some(value.clone()));
    }
    let Some(other) = record.others.iter().find(|other| other.hash == Some(hash)) else { return Ok(None) };
    let Some(bytes) = tables.segment(other.at)? else { return Ok(None) };
    let segment = Segment::decode_own(bytes).map_err(|_| T::corrupt("a segment"))?;
    Ok(segment.entries().find(|write| write.key == *key).and_then(|write| write.value.clone()))
}
