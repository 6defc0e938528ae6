//! The control side: what takes commands, has them decided, and serves readers and agents.

mod builder;
mod config;
mod driver;
mod error;
mod event_log;
mod event_stream;
mod events;
mod gossip;
mod liveness;
mod local_link;
mod lost_output;
mod mailbox;
mod observations;
mod orchestrator;
mod output;
mod proposer;
mod pulse;
mod tasks;
mod view;

pub use builder::Builder;
pub use config::EngineConfig;
pub use error::{Error, Result, Unknown};
pub use event_stream::EventStream;
pub use events::{Event, EventKind};
pub use orchestrator::{Orchestrator, Status};
pub use output::{OutputChunk, OutputRange, OutputReader};
pub use tasks::{Observed, TaskFilter, TaskView};
