//! Transactions: guards and writes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{CommitId, Key, Position, StoreCapabilities, StoreError};

/// Writes that happen together if every guard holds.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Txn {
    /// Name by which its outcome can be asked for; drawn by the store when absent.
    pub id: Option<CommitId>,
    /// Conditions on the state before.
    pub guards: Vec<Guard>,
    /// Puts and deletes. For a key named twice the last one counts.
    pub writes: Vec<Write>,
}

impl Txn {
    /// Writes without conditions.
    #[must_use]
    pub fn of(writes: Vec<Write>) -> Self {
        Self { writes, ..Self::default() }
    }

    /// The same under a name of the caller's, new for each transaction.
    #[must_use]
    pub fn named(self, id: CommitId) -> Self {
        Self { id: Some(id), ..self }
    }

    /// The same on one more condition.
    #[must_use]
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Refuses what a backend with these capabilities does not take. For backends, before anything else.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] names what is too large. Guards are bounded like writes.
    pub fn check(&self, capabilities: &StoreCapabilities) -> Result<(), StoreError> {
        let refuse =
            |what: String, size, max| Err(StoreError::TooLarge { store: capabilities.name, what, size, max });
        let max = capabilities.max_txn_writes;
        for (what, size) in [("writes", self.writes.len()), ("guards", self.guards.len())] {
            if size > max {
                return refuse(format!("the number of {what} of a transaction"), size, max);
            }
        }
        let max = capabilities.max_value_bytes;
        for write in &self.writes {
            let size = write.value.as_ref().map_or(0, Bytes::len);
            if size > max {
                return refuse(format!("the value of {}, in bytes,", write.key), size, max);
            }
        }
        Ok(())
    }

    /// Bytes of the keys and values that it writes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.writes.iter().map(Write::size_bytes).sum()
    }

    /// Net effect of the writes: one value (or none, for a delete) a key, the last one named.
    #[must_use]
    pub fn into_net_writes(self) -> BTreeMap<Key, Option<Bytes>> {
        self.writes.into_iter().map(|write| (write.key, write.value)).collect()
    }
}

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Nothing is stored under the key.
    Absent(Key),
    /// The record was last written by exactly this commit.
    Version(Key, Position),
}

impl Guard {
    /// The key that it looks at.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Version(key, _) => key,
        }
    }

    /// True if the guard holds, given the version stored under its key.
    #[must_use]
    pub fn holds(&self, stored: Option<Position>) -> bool {
        match self {
            Self::Absent(_) => stored.is_none(),
            Self::Version(_, version) => stored == Some(*version),
        }
    }
}

/// Put (with a value) or delete (without) of one key. Deleting what is not there is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Key that is written.
    pub key: Key,
    /// New value; `None` for a delete.
    pub value: Option<Bytes>,
}

impl Write {
    /// Stores `value` under `key`.
    #[must_use]
    pub fn put(key: Key, value: impl Into<Bytes>) -> Self {
        Self { key, value: Some(value.into()) }
    }

    /// Removes what is under `key`.
    #[must_use]
    pub fn delete(key: Key) -> Self {
        Self { key, value: None }
    }

    /// Bytes of its key and its value.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.key.as_str().len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}
