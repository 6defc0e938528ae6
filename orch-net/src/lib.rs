#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "p2p")]
pub mod p2p;
