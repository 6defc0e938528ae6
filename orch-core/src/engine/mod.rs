//! The engine: [`Orchestrator`] is the control side, [`Agent`] the side of a node. Between them lies [`ControlLink`].

mod agent;
mod agent_handle;
mod attempt;
mod builder;
mod config;
mod driver;
mod ended;
mod engine_health;
mod error;
mod events;
mod heartbeat;
mod link;
mod local_link;
mod mailbox;
mod members;
mod node;
mod orchestrator;
mod outbox;
mod output;
mod pulse;
mod secrets;
mod tasks;
mod view;

pub use agent::{Agent, AgentConfig};
pub use agent_handle::{AgentHandle, AgentState};
pub use builder::Builder;
pub use config::EngineConfig;
pub use error::{Error, Result, Unknown};
pub use events::{Event, EventKind, EventStream};
pub use link::{
    Assignment, Assignments, ControlLink, Cursor, LinkError, Observation, Registered, Registration,
    ReportAnswer, Reported, Seen,
};
pub use node::local_capacity;
pub use orchestrator::{Orchestrator, Status};
pub use output::{OutputChunk, OutputRange, OutputReader};
pub use secrets::{DirSecrets, NoSecrets, SecretError, SecretSource};
pub use tasks::{Observed, TaskFilter, TaskView};
