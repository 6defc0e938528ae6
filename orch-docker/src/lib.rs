#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod claim;
mod clock;
mod config;
mod container;
mod credentials;
mod engine;
mod errors;
mod events;
mod held;
mod host_paths;
mod identity;
mod keyed;
mod log_offsets;
mod logs;
mod offsets;
mod pull;
mod reference;
mod runtime;
mod secrets;
mod spec;
mod started;
mod stats;
#[cfg(feature = "testkit")]
pub mod testkit;
mod uncertain_starts;

pub use config::{ConfigError, DockerConfig};
pub use runtime::DockerRuntime;
