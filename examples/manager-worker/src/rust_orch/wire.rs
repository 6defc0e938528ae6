//! Types of the protocol that both sides read: states of a task, and its requirements.

use std::collections::BTreeMap;

use orch_core::model::TaskSpec;
use serde::{Deserialize, Serialize};

const MEMORY_MIB_DEFAULT: u64 = 256;
const CPU_CORES_DEFAULT: f64 = 0.5;

/// A task's state as they write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Status {
    Pending,
    Scheduled,
    Running,
    /// `Completed` in their README, `Complete` on the wire.
    Complete,
    Failed,
}

/// Requirements of a task. Fields that are not known are passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Work {
    pub(super) name: Option<String>,
    image: Option<String>,
    /// In MiB.
    memory: Option<u64>,
    /// In cores.
    cpu: Option<f64>,
    env: Option<BTreeMap<String, String>>,
}

/// A field that cannot be accepted.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub(super) struct BadField {
    pub(super) field: &'static str,
    pub(super) problem: String,
}

impl Work {
    pub(super) fn into_spec(self) -> Result<TaskSpec, BadField> {
        let given = |text: Option<String>, field| {
            text.filter(|text| !text.is_empty())
                .ok_or_else(|| BadField { field, problem: format!("{field} is missing") })
        };
        let mut spec = TaskSpec::image(given(self.name, "name")?, given(self.image, "image")?);
        let cores = self.cpu.unwrap_or(CPU_CORES_DEFAULT);
        if !(0.0..=1e6).contains(&cores) {
            return Err(BadField { field: "cpu", problem: "cpu must be a number of cores from 0".into() });
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        let cpu_millis = (cores * 1000.0).round() as u64;
        spec.resources.cpu_millis = cpu_millis;
        spec.resources.memory_bytes = self.memory.unwrap_or(MEMORY_MIB_DEFAULT).saturating_mul(1 << 20);
        spec.env = self.env.unwrap_or_default();
        Ok(spec)
    }
}
