#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

#[cfg(any(feature = "postgres", feature = "redb", feature = "sqlite"))]
mod commit_window;
#[cfg(any(feature = "crdt", feature = "postgres", feature = "redb", feature = "sqlite"))]
mod completion;
mod connect;
#[cfg(feature = "crdt")]
pub mod crdt;
#[cfg(any(feature = "crdt", feature = "redb", feature = "sqlite"))]
mod file_store;
#[cfg(feature = "layers")]
pub mod layers;
#[cfg(feature = "lease")]
pub mod lease;
#[cfg(any(feature = "postgres", feature = "redb", feature = "redis", feature = "sqlite"))]
mod log_start;
#[cfg(any(feature = "crdt", feature = "postgres", feature = "redb", feature = "redis", feature = "sqlite"))]
mod permits;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis", feature = "sqlite"))]
mod prefix;
#[cfg(any(feature = "postgres", feature = "redb", feature = "redis", feature = "sqlite"))]
mod retention;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis"))]
mod server_store;

pub use connect::{ConnectError, connect};
#[cfg(any(feature = "redb", feature = "sqlite"))]
pub use file_store::FileStore;
#[cfg(feature = "redb")]
pub use file_store::redb;
#[cfg(feature = "sqlite")]
pub use file_store::sqlite;
#[cfg(feature = "etcd")]
pub use server_store::etcd;
#[cfg(feature = "postgres")]
pub use server_store::postgres;
#[cfg(feature = "redis")]
pub use server_store::redis;
