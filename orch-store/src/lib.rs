#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

#[cfg(feature = "embedded")]
pub mod embedded;
