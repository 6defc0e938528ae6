#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

#[cfg(any(feature = "embedded", feature = "postgres", feature = "sqlite"))]
mod answer;
#[cfg(any(feature = "embedded", feature = "postgres", feature = "sqlite"))]
mod company;
mod connect;
#[cfg(feature = "crdt")]
pub mod crdt;
#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(any(feature = "crdt", feature = "embedded"))]
mod file;
#[cfg(any(feature = "embedded", feature = "sqlite"))]
mod group;
#[cfg(feature = "layers")]
pub mod layers;
#[cfg(feature = "lease")]
pub mod lease;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "etcd", feature = "postgres", feature = "redis", feature = "sqlite"))]
mod prefix;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod tail;

pub use connect::{ConnectError, connect};
