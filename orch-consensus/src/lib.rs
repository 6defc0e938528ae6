#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

#[cfg(any(feature = "pbft", feature = "raft"))]
mod codec;

#[cfg(feature = "pbft")]
pub mod pbft;

#[cfg(feature = "raft")]
pub mod raft;
