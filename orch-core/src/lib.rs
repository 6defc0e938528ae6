#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

pub mod consensus;
pub mod model;
pub mod runtime;
pub mod scheduler;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod transport;
