#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod claim;
mod clock;
mod config;
mod container;
mod credentials;
mod doubts;
mod engine;
mod errors;
mod events;
mod held;
mod identity;
mod keyed;
mod logs;
mod marks;
mod offsets;
mod places;
mod pull;
mod reference;
mod runtime;
mod secrets;
mod spec;
mod started;
mod stats;

pub use config::{ConfigError, DockerConfig};
pub use runtime::DockerRuntime;
