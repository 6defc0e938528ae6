//! Tasks as users see them: the record that was decided, and what was observed.

use std::{num::NonZeroU32, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    engine::link::ObservationKind,
    model::{Namespace, NodeId, Timestamp},
    runtime::Usage,
    state::{TaskRecord, TaskState, TaskStatus},
};

/// A task with what its agent saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its record, as decided.
    pub record: Arc<TaskRecord>,
    /// Observations of the current attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
}

impl TaskView {
    /// Its status: as [`TaskRecord::status`], and [`TaskStatus::Running`] where its agent reported that it
    /// runs.
    #[must_use]
    pub fn status(&self) -> TaskStatus {
        shown_status(&self.record, self.observed.as_ref())
    }

    /// Since when the current attempt runs, by its node's clock.
    #[must_use]
    pub fn running_since(&self) -> Option<Timestamp> {
        self.observed.as_ref()?.running_since
    }
}

/// The status that is shown of a task.
pub(super) fn shown_status(record: &TaskRecord, observed: Option<&Observed>) -> TaskStatus {
    match record.status() {
        TaskStatus::Placed if is_started(record, observed) => TaskStatus::Running,
        status => status,
    }
}

/// Whether its current attempt was reported as started, or observed running.
pub(super) fn is_started(record: &TaskRecord, observed: Option<&Observed>) -> bool {
    let decided = matches!(record.state, TaskState::Placed { started_at: Some(_), .. });
    decided || observed.is_some_and(|observed| observed.running_since.is_some())
}

/// Observations of the current attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Number of the attempt.
    pub attempt: NonZeroU32,
    /// The engine's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// Since when it runs, by the node's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_since: Option<Timestamp>,
    /// The last word on how it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Its last observed usage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Whether its health check passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
}

/// The form in which observations are stored.
#[derive(Serialize, Deserialize)]
struct ObservedRecord<T> {
    v: u8,
    observed: T,
}

impl Observed {
    const RECORD_VERSION: u8 = 1;

    pub(super) fn to_record(&self) -> Vec<u8> {
        let record = ObservedRecord { v: Self::RECORD_VERSION, observed: self };
        serde_json::to_vec(&record).expect("plain data has a JSON form")
    }

    /// `None` for what cannot be read or was written by another version: what it says will be observed again.
    pub(super) fn from_record(bytes: &[u8]) -> Option<Self> {
        let record: ObservedRecord<Self> = serde_json::from_slice(bytes).ok()?;
        (record.v == Self::RECORD_VERSION).then_some(record.observed)
    }

    pub(super) fn new(attempt: NonZeroU32) -> Self {
        Self { attempt, handle: None, running_since: None, progress: None, usage: None, healthy: None }
    }

    /// Applies an observation. Says whether followers of events should hear of it.
    pub(super) fn apply(&mut self, kind: &ObservationKind) -> bool {
        let before = self.clone();
        match kind {
            ObservationKind::Progress(text) => self.progress = Some(text.chars().take(500).collect()),
            ObservationKind::Running { handle, at } => {
                (self.handle, self.running_since) = (Some(handle.chars().take(200).collect()), Some(*at));
                self.progress = None;
            }
            ObservationKind::Usage(usage) => {
                self.usage = Some(*usage);
                return false;
            }
            ObservationKind::Health(healthy) => self.healthy = Some(*healthy),
            ObservationKind::Output { .. } => return false,
        }
        *self != before
    }
}

/// Filter for tasks.
#[derive(Clone, Debug)]
pub struct TaskFilter {
    /// Only those whose status is one of these; all when empty.
    pub statuses: Vec<TaskStatus>,
    /// Only those of this namespace.
    pub namespace: Option<Namespace>,
    /// Only those with exactly this name.
    pub name: Option<String>,
    /// Only those on this node now.
    pub node: Option<NodeId>,
    /// Only those with this free label and value.
    pub label: Option<(String, String)>,
    /// Only those whose id starts with this text.
    pub id_prefix: Option<String>,
    /// The last submitted ones first, instead of the first submitted ones.
    pub newest_first: bool,
    /// Only those that come after the task with this sequence number, in the order asked for: the next page.
    pub after_seq: Option<u64>,
    /// At most this many.
    pub limit: usize,
}

impl Default for TaskFilter {
    fn default() -> Self {
        Self {
            statuses: Vec::new(),
            namespace: None,
            name: None,
            node: None,
            label: None,
            id_prefix: None,
            newest_first: false,
            after_seq: None,
            limit: 1000,
        }
    }
}

impl TaskFilter {
    /// Whether the task comes after the page before.
    pub(super) fn follows(&self, view: &TaskView) -> bool {
        self.after_seq.is_none_or(|after| match self.newest_first {
            true => view.record.seq < after,
            false => view.record.seq > after,
        })
    }

    pub(super) fn matches(&self, view: &TaskView) -> bool {
        let record = &view.record;
        (self.statuses.is_empty() || self.statuses.contains(&view.status()))
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == record.spec.namespace)
            && self.name.as_ref().is_none_or(|name| *name == record.spec.name)
            && self.node.as_ref().is_none_or(|node| Some(node) == record.node())
            && self.label.as_ref().is_none_or(|(name, value)| record.spec.labels.get(name) == Some(value))
            && self.id_prefix.as_ref().is_none_or(|prefix| record.id.to_string().starts_with(prefix.as_str()))
    }
}
