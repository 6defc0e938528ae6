#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod connect;
#[cfg(feature = "crdt")]
pub mod crdt;
#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(any(feature = "crdt", feature = "embedded"))]
mod file;
#[cfg(feature = "layers")]
pub mod layers;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod prefix;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "postgres")]
mod tail;

pub use connect::{ConnectError, connect};
