use std::path::Path;

use crate::{Pair, Transaction};

/// A document CRDT that holds a map of records.
pub trait Document {
    /// Name in tables.
    const NAME: &'static str;

    /// An empty one that keeps what it is told in this directory. `author` differs between those that will
    /// meet.
    fn open(directory: &Path, author: u8) -> Self;

    /// Puts records in one transaction, whose update is written and not yet synced.
    fn put(&mut self, records: Transaction);

    /// Syncs what was written.
    fn sync(&mut self);

    /// Version that it has, for another to compute what that one lacks.
    fn version(&mut self) -> Vec<u8>;

    /// Changes that a document of this version lacks, as they would travel.
    fn missing(&mut self, version: &[u8]) -> Vec<u8>;

    /// Takes in what another lacked, written and not yet synced.
    fn take(&mut self, update: &[u8]);

    /// Number of records.
    fn count(&mut self) -> usize;

    /// Puts what is on the disk into the shortest form there is.
    fn compact(&mut self);
}

/// Two of them.
#[derive(Debug)]
pub struct Documents<D>([D; 2]);

impl<D: Document> Pair for Documents<D> {
    const NAME: &'static str = D::NAME;

    fn open([ours, theirs]: [&Path; 2]) -> Self {
        Self([D::open(ours, 0), D::open(theirs, 1)])
    }

    fn put(&mut self, at: usize, transactions: Vec<Transaction>) {
        transactions.into_iter().for_each(|records| self.0[at].put(records));
        self.0[at].sync();
    }

    fn sync(&mut self) -> u64 {
        let [ours, theirs] = &mut self.0;
        let version = ours.version();
        let update = theirs.missing(&version);
        ours.take(&update);
        ours.sync();
        (version.len() + update.len()) as u64
    }

    fn settle(&mut self) {
        self.sync();
    }

    fn count(&mut self, at: usize) -> usize {
        self.0[at].count()
    }

    fn compact(&mut self, at: usize) {
        self.0[at].compact();
    }
}
