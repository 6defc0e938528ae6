//! Records of a cluster in document CRDTs, as somebody would keep them who used one for that: one map, an update written and synced
//! for each transaction. `benches/records.rs` measures, `src/bin/sizes.rs` weighs.

mod automerge;
mod loro;
mod records;
mod yrs;

pub use self::{
    automerge::Automerge,
    loro::Loro,
    records::{RECORD_BYTES, TRANSACTION, file_bytes, key, put_all, value},
    yrs::Yrs,
};

use std::path::Path;

/// A replica of a set of records.
pub trait Replica {
    /// What it is called in tables.
    const NAME: &'static str;

    /// An empty one that keeps what it is told in this directory. `author` differs between replicas that will meet.
    fn open(directory: &Path, author: u8) -> Self;

    /// Puts records in one transaction, and comes back when they are synced.
    fn put(&mut self, records: impl Iterator<Item = (String, Vec<u8>)>);

    /// What it has, for another to say what that lacks.
    fn version(&mut self) -> Vec<u8>;

    /// What a replica of this version lacks, as it would travel.
    fn missing(&mut self, version: &[u8]) -> Vec<u8>;

    /// Takes in what another lacked, synced.
    fn take(&mut self, update: &[u8]);

    /// How many records there are.
    fn count(&mut self) -> usize;

    /// Puts what is on the disk into the shortest form there is.
    fn compact(&mut self);
}
