#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(feature = "sqlite")]
mod prefix;
#[cfg(feature = "sqlite")]
pub mod sqlite;
