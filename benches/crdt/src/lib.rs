//! Records that several authors write: the signed store beside document CRDTs, used as somebody would who
//! keeps records in one: a single map, an update written and synced for each transaction.
//! `benches/records.rs` measures, `src/bin/sizes.rs` weighs.

mod automerge;
mod document;
mod loro;
mod records;
mod stores;
mod yrs;

use std::path::Path;

pub use self::{
    automerge::Automerge,
    document::{Document, Documents},
    loro::Loro,
    records::{RECORD_BYTES, Transaction, file_bytes, key, put_all, transactions},
    stores::Stores,
    yrs::Yrs,
};

/// Two replicas that have not met since they were opened, or synced. Number 0 learns what number 1 writes.
pub trait Pair {
    /// Name in tables.
    const NAME: &'static str;

    /// Empty ones that keep what they are told in these directories.
    fn open(directories: [&Path; 2]) -> Self;

    /// Puts records into one of them, each list in a transaction of its own, all asked for at once; comes
    /// back when all are synced.
    fn put(&mut self, at: usize, transactions: Vec<Transaction>);

    /// Brings to number 0 what number 1 has, synced, and says how many bytes travelled for that.
    fn sync(&mut self) -> u64;

    /// The same, and waits until both know that both have it.
    fn settle(&mut self);

    /// Number of records that one of them has.
    fn count(&mut self, at: usize) -> usize;

    /// Puts what one of them has on its disk into the shortest form there is.
    fn compact(&mut self, at: usize);
}
