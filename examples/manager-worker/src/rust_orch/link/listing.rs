//! One entry of their list of tasks, each read by itself: a bad one must not hide the others.

use orch_core::model::{Limits, NodeId, TaskId, TaskSpec};
use serde::Deserialize as _;
use serde_json::Value;

use crate::rust_orch::wire::{Status, Work};

/// Meaning of an entry for a node.
#[derive(Debug)]
pub(super) enum Listed {
    /// Nothing: it is another node's, or not to be started.
    NotOurs,
    /// It should run here. The text says why it cannot.
    Ours(TaskId, Result<Box<TaskSpec>, String>),
}

/// Reads an entry.
///
/// # Errors
/// Why it has to be passed over.
pub(super) fn read(entry: &Value, node: &NodeId) -> Result<Listed, String> {
    if entry["node_id"].as_str() != Some(node.as_str()) {
        return Ok(Listed::NotOurs);
    }
    let id: TaskId = entry["id"]
        .as_str()
        .ok_or("a task has no id")?
        .parse()
        .map_err(|error| format!("a task is passed over: {error}"))?;
    let status = Status::deserialize(&entry["status"])
        .map_err(|error| format!("task {id} is passed over: status: {error}"))?;
    Ok(match status {
        Status::Scheduled => Listed::Ours(id, spec(entry).map(Box::new)),
        _ => Listed::NotOurs,
    })
}

fn spec(entry: &Value) -> Result<TaskSpec, String> {
    let mut work = Work::deserialize(entry).map_err(|error| error.to_string())?;
    // Their manager calls it so itself.
    let named = work.name.take().filter(|name| !name.is_empty());
    work.name = Some(named.unwrap_or_else(|| "unnamed".into()));
    let spec = work.into_spec().map_err(|error| error.to_string())?;
    spec.validate(&Limits::default()).map_err(|error| error.to_string())?;
    Ok(spec)
}
