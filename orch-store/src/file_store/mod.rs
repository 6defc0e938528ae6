//! Stores in a file of this machine that one process has open. Parts that they share: opening the file, the
//! thread that writes it, the group commit, the history for watches. An engine puts records and log into a
//! file ([`redb`], [`sqlite`]); the signed store of the feature `crdt` stands on the same thread with tables
//! of its own.

#[cfg(any(feature = "redb", feature = "sqlite"))]
mod checksum;
#[cfg(any(feature = "redb", feature = "sqlite"))]
mod engine;
pub(crate) mod error;
pub(crate) mod open;
#[cfg(feature = "redb")]
pub mod redb;
#[cfg(any(feature = "crdt", feature = "redb"))]
pub(crate) mod redb_file;
#[cfg(any(feature = "redb", feature = "sqlite"))]
mod reserve;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub(crate) mod status;
#[cfg(any(feature = "redb", feature = "sqlite"))]
mod store;
#[cfg(any(feature = "redb", feature = "sqlite"))]
mod writer;
pub(crate) mod writer_thread;

#[cfg(any(feature = "redb", feature = "sqlite"))]
pub use self::store::FileStore;
