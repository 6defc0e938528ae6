#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

#[cfg(any(feature = "redb", feature = "sqlite"))]
mod commit_group;
#[cfg(any(feature = "redb", feature = "postgres", feature = "sqlite"))]
mod commit_window;
#[cfg(any(feature = "redb", feature = "postgres", feature = "sqlite"))]
mod completion;
mod connect;
#[cfg(feature = "crdt")]
pub mod crdt;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(any(feature = "crdt", feature = "redb"))]
mod file;
#[cfg(feature = "layers")]
pub mod layers;
#[cfg(feature = "lease")]
pub mod lease;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod log_follower;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis", feature = "sqlite"))]
mod prefix;
#[cfg(feature = "redb")]
pub mod redb;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use connect::{ConnectError, connect};
