#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod connect;
#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(feature = "layers")]
pub mod layers;
#[cfg(feature = "sqlite")]
mod prefix;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use connect::{ConnectError, connect};
