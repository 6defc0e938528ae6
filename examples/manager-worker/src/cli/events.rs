//! `orch events`.

use orch_core::{
    engine::{Event, EventKind, Seen},
    store::Revision,
};
use orch_net::http::EventStart;
use serde_json::json;

use super::{connect::Connect, exit::Failure, table};

pub(super) async fn follow(connect: &Connect, from: Option<u64>) -> Result<(), Failure> {
    let client = connect.client()?;
    let start = from.map_or(EventStart::Now, |revision| EventStart::After(Revision(revision)));
    let mut events = client.events(start).await?;
    while let Some(event) = events.next().await {
        let event = event?.event;
        let line = match connect.json {
            true => for_programs(&event).to_string(),
            false => for_people(&event),
        };
        table::print(&(line + "\n"))?;
    }
    Ok(())
}

fn for_people(event: &Event) -> String {
    let text = match &event.kind {
        EventKind::Task(record) => {
            let node = record.node().map(|node| format!(" on {node}")).unwrap_or_default();
            let end = record.last_end().filter(|_| record.node().is_none());
            let end = end.map(|end| format!(" ({end})")).unwrap_or_default();
            format!("task {} {} {}{node}{end}", record.spec.name, record.id.short(), record.status())
        }
        EventKind::TaskForgotten(id) => format!("task {} forgotten", id.short()),
        EventKind::Node(record) => {
            format!("node {} {:?} {:?}", record.spec.id, record.state, record.scheduling)
        }
        EventKind::NodeRemoved(id) => format!("node {id} removed"),
        EventKind::Observed { attempt, seen } => {
            format!("task {} attempt {} {}", attempt.task.short(), attempt.attempt, words(seen))
        }
    };
    format!("{:>8}  {text}", event.revision.0)
}

/// What an agent saw, in words.
pub(super) fn words(seen: &Seen) -> String {
    match seen {
        Seen::Progress(text) => text.clone(),
        Seen::Running { handle, .. } => format!("running ({})", handle.chars().take(12).collect::<String>()),
        Seen::Usage(usage) => format!("uses {}", table::memory(usage.memory_bytes)),
        Seen::Health(true) => "is well".into(),
        Seen::Health(false) => "fails its health check".into(),
        Seen::Output { .. } => "wrote".into(),
    }
}

fn for_programs(event: &Event) -> serde_json::Value {
    let revision = event.revision;
    match &event.kind {
        EventKind::Task(record) => json!({ "revision": revision, "task": record }),
        EventKind::TaskForgotten(id) => json!({ "revision": revision, "task_forgotten": id }),
        EventKind::Node(record) => json!({ "revision": revision, "node": record }),
        EventKind::NodeRemoved(id) => json!({ "revision": revision, "node_removed": id }),
        EventKind::Observed { attempt, seen } => {
            json!({ "revision": revision, "observed": { "attempt": attempt, "seen": seen } })
        }
    }
}
