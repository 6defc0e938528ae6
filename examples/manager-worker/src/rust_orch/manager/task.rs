//! A task as rust-orch writes it.

use std::collections::BTreeMap;

use orch_core::{
    engine::TaskView,
    model::{NodeId, TaskId, Timestamp, Workload},
    state::TaskStatus,
};
use orch_net::http::shell::{Problem, kinds};
use serde::Serialize;

use crate::rust_orch::wire::{BadField, Status};

#[derive(Debug, Serialize)]
pub(super) struct Task {
    id: TaskId,
    name: String,
    image: String,
    /// In MiB.
    memory: u64,
    /// In cores.
    cpu: f64,
    env: BTreeMap<String, String>,
    status: Status,
    created_at: String,
    started_at: Option<String>,
    node_id: Option<NodeId>,
    container_id: Option<String>,
}

impl From<&TaskView> for Task {
    fn from(view: &TaskView) -> Self {
        let (record, observed) = (&view.record, view.observed.as_ref());
        let (spec, resources) = (&record.spec, &record.spec.resources);
        let image = match &spec.workload {
            Workload::Image { image, .. } => image,
            Workload::Program { program } => program,
        };
        let status = match view.status() {
            TaskStatus::Pending | TaskStatus::Backoff => Status::Pending,
            TaskStatus::Placed => Status::Scheduled,
            TaskStatus::Running | TaskStatus::Stopping => Status::Running,
            TaskStatus::Succeeded => Status::Complete,
            _ => Status::Failed,
        };
        let last_node = || record.attempts.last().map(|attempt| &attempt.node);
        let node = record.node().or_else(|| record.is_finished().then(last_node).flatten());
        Self {
            id: record.id,
            name: spec.name.clone(),
            image: image.clone(),
            memory: resources.memory_bytes >> 20,
            #[expect(clippy::cast_precision_loss, reason = "cores are shown, not counted")]
            cpu: resources.cpu_millis as f64 / 1000.0,
            env: spec.env.clone(),
            status,
            created_at: nanoseconds(record.submitted_at),
            started_at: view.running_since().map(nanoseconds),
            node_id: node.cloned(),
            container_id: observed.and_then(|seen| seen.handle.clone()).filter(|handle| !handle.is_empty()),
        }
    }
}

/// RFC 3339 with nine digits behind the point, as their programs write it.
fn nanoseconds(at: Timestamp) -> String {
    at.to_rfc3339().replace('Z', "000000Z")
}

impl From<BadField> for Problem {
    fn from(BadField { field, problem }: BadField) -> Self {
        Self::new(kinds::MALFORMED, problem).at(field)
    }
}
