#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

#[cfg(feature = "crdt")]
pub mod crdt;
#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(any(feature = "crdt", feature = "embedded"))]
mod file;
