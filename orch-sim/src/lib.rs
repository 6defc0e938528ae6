#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod clock;
#[cfg(feature = "crdt")]
pub mod crdt;
mod disk;
#[cfg(feature = "engine")]
pub mod engine;
pub mod history;
mod nemesis;
mod network;
#[cfg(feature = "pbft")]
pub mod pbft;
mod process;
mod queue;
mod random;
mod simulation;
mod statistics;
mod time;
mod world;

pub use clock::Clock;
pub use disk::{Disk, DiskError};
pub use nemesis::{Nemesis, NemesisSettings};
pub use network::{Network, NetworkConditions};
pub use process::{Context, Process};
pub use random::Random;
pub use simulation::{Settings, Simulation};
pub use statistics::{NodeId, Statistics};
