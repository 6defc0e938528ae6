//! Reading one key at a level.

use bytes::Bytes;
use orch_core::store::Key;

use super::{Replica, decide::confirmed_name};
use crate::crdt::{merkle::Hash, record::Candidate, tables::Tables};

/// How sure a read has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadLevel {
    /// Whatever was seen last.
    Optimistic,
    /// What a decision confirmed; where there is none for the key, what was written last by as many authors as are needed,
    /// each of which still says the same. At least one of them does not lie.
    Confirmed,
}

impl Replica {
    /// The value of a key.
    ///
    /// # Errors
    /// When the tables cannot be read.
    pub fn read<T: Tables>(
        &self,
        tables: &T,
        key: &Key,
        level: ReadLevel,
    ) -> Result<Option<Bytes>, T::Error> {
        if let (ReadLevel::Confirmed, Some(stored)) = (level, tables.meta(&confirmed_name(key.as_str()))?) {
            let Some((hash, value)) = stored.split_at_checked(32) else {
                return Err(T::corrupt("a confirmed value"));
            };
            if Hash::of(value).0 == *hash {
                return Ok(Some(stored.slice(32..)));
            }
            let hash = Hash(hash.try_into().expect("split there"));
            return self.value_with_hash(tables, key, hash);
        }
        let Some(record) = tables.record(key.as_str())? else { return Ok(None) };
        let needed = self.config.confirmations.get();
        if level == ReadLevel::Optimistic || needed == 1 {
            return Ok(record.value);
        }
        let all: Vec<Candidate> = std::iter::once(record.winner()).chain(record.others.clone()).collect();
        match agreed(&all, needed) {
            Some(Some(hash)) => self.value_with_hash(tables, key, hash),
            Some(None) | None => Ok(None),
        }
    }
}

/// What enough authors say, if they do. They come with the latest first. Of several, that which was complete last.
fn agreed(all: &[Candidate], needed: usize) -> Option<Option<Hash>> {
    let complete = |hash: Option<Hash>| {
        all.iter().filter(|candidate| candidate.hash == hash).nth(needed - 1).map(|last| (last.stamp, hash))
    };
    all.iter().filter_map(|candidate| complete(candidate.hash)).max().map(|(_, hash)| hash)
}
