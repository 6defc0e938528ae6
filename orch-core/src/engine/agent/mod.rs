//! The side of a node: an agent registers it, takes assignments, sees attempts through and reports how they
//! ended.

mod attempt;
mod capacity;
mod command_queue;
mod config;
mod handle;
mod heartbeat;
mod outbox;
mod position;
mod query;
mod run;
mod runtime_events;
mod runtime_health;
mod secrets;
mod tombstones;

pub use capacity::local_capacity;
pub use config::AgentConfig;
pub use handle::{AgentHandle, AgentState};
pub use run::Agent;
pub use secrets::{DirSecrets, NoSecrets, SecretError, SecretSource};
