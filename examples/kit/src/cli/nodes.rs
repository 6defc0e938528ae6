//! `orch nodes`, `orch status` and operations on nodes.

use std::time::Duration;

use futures_util::StreamExt as _;
use orch_core::model::{NodeId, NodeState, Scheduling};
use orch_net::http::{EventStart, wire::NodeInfo};
use serde_json::json;

use super::{progress::Progress, session::Session, table};
use crate::{failure::Failure, retry::until_answered};

pub(super) async fn list(session: &Session) -> Result<(), Failure> {
    let nodes = session.api.nodes().await?;
    if session.json {
        return table::print_json(&nodes);
    }
    let rows = nodes.iter().map(|node| {
        let spec = &node.record.spec;
        let labels: Vec<String> = spec.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let kinds: Vec<String> = spec.kinds.iter().map(ToString::to_string).collect();
        vec![
            spec.id.to_string(),
            state(node).into(),
            kinds.join(","),
            node.tasks.to_string(),
            format!("{}/{}", table::cores(node.free_cpu_millis), table::cores(spec.capacity.cpu_millis)),
            format!(
                "{}/{}",
                table::memory(node.free_memory_bytes),
                table::memory(spec.capacity.memory_bytes)
            ),
            labels.join(","),
        ]
    });
    table::print(&table::render_to_fit(
        &["NODE", "STATE", "RUNS", "TASKS", "CPU FREE", "MEMORY FREE", "LABELS"],
        rows,
    ))
}

fn state(node: &NodeInfo) -> &'static str {
    match (node.record.state, node.record.scheduling) {
        (NodeState::Lost, _) => "lost",
        (NodeState::Ready, _) if node.record.spec.last_error.is_some() => "degraded",
        (NodeState::Ready, Scheduling::Open) => "ready",
        (NodeState::Ready, Scheduling::Cordoned) => "cordoned",
        (NodeState::Ready, Scheduling::Draining { .. }) if node.tasks == 0 => "drained",
        (NodeState::Ready, Scheduling::Draining { .. }) => "draining",
    }
}

pub(super) async fn status(session: &Session) -> Result<(), Failure> {
    let status = session.api.status().await?;
    if session.json {
        return table::print_json(&status);
    }
    let mut text = format!("{} {} at revision {}\n", session.style.server, status.version, status.revision);
    let lost = status.consensus.lost_history.map(|lost| lost.to_string());
    for trouble in status.consensus.last_error.iter().chain(&status.scheduler_error).chain(&lost) {
        text += &format!("trouble: {}\n", table::one_line(trouble));
    }
    let rows = status.tasks.iter().map(|(status, count)| vec![status.to_string(), count.to_string()]);
    table::print(&(text + &table::render(&["TASKS", "COUNT"], rows)))
}

pub(super) async fn drain(
    session: &Session,
    node: &NodeId,
    grace: Duration,
    wait: bool,
) -> Result<(), Failure> {
    let api = &*session.api;
    api.drain(node, grace).await?;
    if wait {
        wait_until_empty(session, node).await?;
    }
    print_result(session, node, if wait { "drained" } else { "draining" })
}

async fn wait_until_empty(session: &Session, node: &NodeId) -> Result<(), Failure> {
    let (api, progress) = (&*session.api, Progress::new());
    let mut events = until_answered(|| api.events(EventStart::Now)).await?;
    loop {
        let nodes = until_answered(|| api.nodes()).await?;
        let Some(known) = nodes.iter().find(|known| known.record.spec.id == *node) else {
            return Err(Failure::unknown(format!("node {node} was removed")));
        };
        if known.tasks == 0 {
            return Ok(());
        }
        progress.show(&format!("{} tasks are left on {node}", known.tasks));
        match events.next().await {
            Some(Ok(_)) => {}
            // A manager that was restarted has no earlier events. The node itself is checked next.
            Some(Err(error)) if error.code() == Some("events_compacted") => {
                events = until_answered(|| api.events(EventStart::Now)).await?;
            }
            Some(Err(error)) => return Err(error.into()),
            None => return Err(Failure::other(format!("the {} ended", session.style.server))),
        }
    }
}

pub(super) async fn cordon(session: &Session, node: &NodeId) -> Result<(), Failure> {
    session.api.cordon(node).await?;
    print_result(session, node, "cordoned")
}

pub(super) async fn uncordon(session: &Session, node: &NodeId) -> Result<(), Failure> {
    session.api.uncordon(node).await?;
    print_result(session, node, "uncordoned")
}

pub(super) async fn remove(session: &Session, node: &NodeId) -> Result<(), Failure> {
    session.api.remove(node).await.map_err(|error| match error.code() {
        Some("unknown_node") => Failure::unknown(format!(
            "there is no node {node} (a task is stopped with {} stop, and forgotten by itself once it is over)",
            session.style.program
        )),
        _ => error.into(),
    })?;
    print_result(session, node, "removed")
}

fn print_result(session: &Session, node: &NodeId, what: &str) -> Result<(), Failure> {
    match session.json {
        true => table::print_json(&json!({ "node": node, "result": what })),
        false => table::print(&format!("{node} {what}\n")),
    }
}
