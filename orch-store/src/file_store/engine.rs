//! Storage engine of a file store.

use std::collections::BTreeMap;

use orch_core::store::{
    CommitId, Entry, Incarnation, Key, Page, Position, Revision, StoreError, Txn, WatchBatch, Write,
};

use super::status::StoreFile;
use crate::log_start;

/// Tables of records and log in one file. Everything here blocks. Reads see what was committed, and neither
/// wait for the writer nor hold it up.
pub(super) trait Engine: StoreFile {
    /// Error of the library below.
    type Error;

    /// Name of the backend in messages.
    const NAME: &'static str;

    /// The record of this key, if there is one.
    fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// The next records whose keys begin with `prefix`, at most `limit`, as of one revision.
    fn scan(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<Page, StoreError>;

    /// The revisions after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the log begins later; [`StoreError::Diverged`] when it does not have
    /// `after`.
    fn read_log(&self, after: Position, limit: usize) -> Result<Vec<WatchBatch>, StoreError>;

    /// The position in the log with this incarnation.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when it is not in the log, which begins after `since`.
    fn find(&self, incarnation: Incarnation, since: Revision) -> Result<Option<Position>, StoreError>;

    /// Runs `work` in one transaction on a log with these `bounds`, and commits it with the bounds that it
    /// returns; the log is trimmed to them. Nothing is written when they are the same. With `synced` all of
    /// it survives a power cut, otherwise after the next [`Engine::sync`].
    ///
    /// # Errors
    /// Those that stop the store ([`StoreFile::fail`]), and refusals that left the file as it was.
    fn write(
        &self,
        bounds: LogBounds,
        synced: bool,
        work: impl FnOnce(&mut dyn Batch<Error = Self::Error>) -> Result<LogBounds, Self::Error>,
    ) -> Result<LogBounds, StoreError>;

    /// Makes everything durable that was committed without being.
    fn sync(&self) -> Result<(), StoreError>;
}

/// Write transaction of an engine. It sees its own writes.
pub(super) trait Batch {
    /// Error of the library below.
    type Error;

    /// Commit that wrote the record of this key, if there is one.
    fn version(&mut self, key: &Key) -> Result<Option<Position>, Self::Error>;

    /// Writes the record of this key.
    fn put(&mut self, key: &Key, value: &[u8], version: Position) -> Result<(), Self::Error>;

    /// Deletes the record; false when there was none.
    fn delete(&mut self, key: &Key) -> Result<bool, Self::Error>;

    /// Adds the next revision to the log.
    fn append_log(&mut self, position: Position, writes: &[Write]) -> Result<(), Self::Error>;

    /// The position of a revision in the log.
    fn position(&mut self, revision: Revision) -> Result<Position, Self::Error>;
}

/// First and last position of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogBounds {
    /// The earliest start of a watch: the log holds exactly the revisions `oldest + 1 ..= head`.
    pub(super) oldest: Position,
    /// The newest position.
    pub(super) head: Position,
}

impl LogBounds {
    /// Bounds of a new store.
    #[cfg(feature = "redb")]
    pub(super) const EMPTY: Self = Self { oldest: Position::ZERO, head: Position::ZERO };

    /// Refuses positions that a log with these bounds does not have. `found` is what it has at the revision.
    pub(super) fn check(self, after: Position, found: Option<Position>) -> Result<(), StoreError> {
        log_start::check(after, found, self.oldest, self.head)
    }
}

/// Outcome of one transaction of a commit group.
pub(super) enum TxnOutcome {
    /// Its position and its changes, in byte order of keys.
    Applied(Position, Vec<Write>),
    /// The key of a guard that did not hold.
    Conflict(Key),
}

/// Decides a transaction on what those before it left, and applies it as `revision` if its guards hold. Each
/// commit is its own incarnation.
pub(super) fn apply<E>(
    batch: &mut dyn Batch<Error = E>,
    revision: Revision,
    txn: Txn,
) -> Result<TxnOutcome, E> {
    for guard in &txn.guards {
        let stored = batch.version(guard.key())?;
        if !guard.holds(stored) {
            return Ok(TxnOutcome::Conflict(guard.key().clone()));
        }
    }
    let position = Position::of(revision, txn.id.unwrap_or_else(CommitId::random));
    let net: BTreeMap<_, _> = txn.into_net_writes();
    let mut changes = Vec::with_capacity(net.len());
    for (key, value) in net {
        let changed = match &value {
            Some(value) => {
                batch.put(&key, value, position)?;
                true
            }
            None => batch.delete(&key)?,
        };
        if changed {
            changes.push(Write { key, value });
        }
    }
    batch.append_log(position, &changes)?;
    Ok(TxnOutcome::Applied(position, changes))
}
