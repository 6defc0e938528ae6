//! The engine in two halves: `control` is the side that decides, with [`Orchestrator`] in front, `agent` the
//! side of a node. They know each other by `link` only, whose interface is [`ControlLink`].

mod agent;
mod control;
mod link;

pub use agent::{
    Agent, AgentConfig, AgentHandle, AgentState, DirSecrets, NoSecrets, SecretError, SecretSource,
    local_capacity,
};
pub use control::{
    Builder, EngineConfig, Error, Event, EventKind, EventStream, Observed, Orchestrator, OutputChunk,
    OutputRange, OutputReader, Result, Status, TaskFilter, TaskView, Unknown,
};
pub use link::{
    Assignment, Assignments, AssignmentsQuery, ControlLink, Cursor, LinkError, Observation, ObservationKind,
    Registered, Registration, ReportAnswer, Reported,
};
