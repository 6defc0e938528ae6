//! Data model of the cluster: tasks, nodes, resources, and their ids and times.
//!
//! Everything here is plain data with a stable serde form (`docs/task-model.md` has the JSON). Integers only:
//! replicas must agree to the last bit.

mod ids;
mod isolation;
mod node;
mod node_loss;
mod report;
mod resources;
mod shared_spec;
mod spec;
mod time;
mod validate;
mod words;

#[cfg(feature = "signing")]
mod signing;

pub use ids::{AttemptId, CommandId, IdError, IncarnationId, InstanceId, Namespace, NodeId, TaskId};
pub use isolation::{Capability, Isolation, NetworkMode, SpareIsolation};
pub use node::{NodeKey, NodeRecord, NodeSpec, NodeState, Scheduling, Session};
pub use node_loss::{KeptAttempt, NodeLossPolicy};
pub use report::{AttemptEnd, Exit, Report, ReportKind, StartFailure};
pub use resources::{Held, Overflow, Resources, Shortage};
pub use shared_spec::{SharedSpec, SpecId};
#[cfg(feature = "signing")]
pub use signing::SignatureError;
pub use spec::{
    Constraint, HealthCheck, Mount, MountSource, PullPolicy, RestartPolicy, RetryPolicy, SecretRef,
    SecretTarget, StopPolicy, StopSignal, SubmitterSignature, TaskSpec, Timeouts, WorkKind, Workload,
};
pub(crate) use time::millis;
pub use time::{Moment, Timestamp};
pub use validate::{InvalidSpec, Limits};
pub(crate) use words::{clip_words, clipped_words};
