//! A task as rust-orch writes it.

use std::collections::BTreeMap;

use orch_core::{
    engine::TaskView,
    model::{NodeId, TaskId, TaskSpec, Timestamp, Workload},
};
use serde::{Deserialize, Serialize};

use crate::http::server::problem::{Problem, kinds};

const MEMORY_MIB_DEFAULT: u64 = 256;
const CPU_CORES_DEFAULT: f64 = 0.5;

#[derive(Debug, Serialize)]
pub(super) struct LegacyTask {
    id: TaskId,
    name: String,
    image: String,
    /// In MiB.
    memory: u64,
    /// In cores.
    cpu: f64,
    env: BTreeMap<String, String>,
    status: LegacyStatus,
    created_at: String,
    started_at: Option<String>,
    node_id: Option<NodeId>,
    container_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LegacyStatus {
    Pending,
    Scheduled,
    Running,
    /// `Completed` in their README, `Complete` on the wire.
    Complete,
    Failed,
}

impl From<&TaskView> for LegacyTask {
    fn from(view: &TaskView) -> Self {
        let (record, observed) = (&view.record, view.observed.as_ref());
        let (spec, resources) = (&record.spec, &record.spec.resources);
        let image = match &spec.workload {
            Workload::Image { image, .. } => image,
            Workload::Program { program } => program,
        };
        let status = match view.status() {
            "pending" | "backoff" => LegacyStatus::Pending,
            "placed" => LegacyStatus::Scheduled,
            "running" | "stopping" => LegacyStatus::Running,
            "succeeded" => LegacyStatus::Complete,
            _ => LegacyStatus::Failed,
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

/// What their CLI submits. Fields that it does not have are passed over.
#[derive(Debug, Deserialize)]
pub(super) struct LegacySubmission {
    name: Option<String>,
    image: Option<String>,
    memory: Option<u64>,
    cpu: Option<f64>,
    env: Option<BTreeMap<String, String>>,
}

impl LegacySubmission {
    pub(super) fn into_spec(self) -> Result<TaskSpec, Problem> {
        let given = |text: Option<String>, field: &str| {
            text.filter(|text| !text.is_empty())
                .ok_or_else(|| Problem::new(kinds::MALFORMED, format!("{field} is missing")).at(field))
        };
        let mut spec = TaskSpec::image(given(self.name, "name")?, given(self.image, "image")?);
        let cores = self.cpu.unwrap_or(CPU_CORES_DEFAULT);
        if !(0.0..=1e6).contains(&cores) {
            return Err(Problem::new(kinds::MALFORMED, "cpu must be a number of cores from 0").at("cpu"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        let cpu_millis = (cores * 1000.0).round() as u64;
        spec.resources.cpu_millis = cpu_millis;
        spec.resources.memory_bytes = self.memory.unwrap_or(MEMORY_MIB_DEFAULT).saturating_mul(1 << 20);
        spec.env = self.env.unwrap_or_default();
        Ok(spec)
    }
}
