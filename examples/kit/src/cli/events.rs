//! `orch events`.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use orch_core::{
    engine::{Event, EventKind, ObservationKind},
    model::{Namespace, TaskId},
    store::Revision,
};
use orch_net::http::{Api, EventStart};
use serde_json::json;

use super::{session::Session, table};
use crate::failure::Failure;

pub(super) async fn follow(session: &Session, from: Option<u64>) -> Result<(), Failure> {
    let api = &*session.api;
    let mut sieve = session.namespace.clone().map(|namespace| Sieve::new(api, namespace));
    let start = from.map_or(EventStart::Now, |revision| EventStart::After(Revision(revision)));
    let mut events = api.events(start).await?;
    while let Some(event) = events.next().await {
        let event = event?.event;
        if let Some(sieve) = &mut sieve
            && !sieve.passes(&event).await?
        {
            continue;
        }
        let line = match session.json {
            true => for_programs(&event).to_string(),
            false => for_people(&event),
        };
        table::print(&(line + "\n"))?;
    }
    Ok(())
}

/// Filter for events of tasks of one namespace.
struct Sieve<'a> {
    api: &'a dyn Api,
    namespace: Namespace,
    /// Whether a task belongs to it, for recent tasks.
    known: HashMap<TaskId, bool>,
}

impl<'a> Sieve<'a> {
    const KNOWN_MAX: usize = 65_536;

    fn new(api: &'a dyn Api, namespace: Namespace) -> Self {
        Self { api, namespace, known: HashMap::new() }
    }

    async fn passes(&mut self, event: &Event) -> Result<bool, Failure> {
        match &event.kind {
            EventKind::Task(record) => Ok(self.note(record.id, record.spec.namespace == self.namespace)),
            EventKind::TaskForgotten(id) => Ok(self.known.remove(id).unwrap_or(false)),
            EventKind::Observed { attempt, .. } => self.is_of_it(attempt.task).await,
            EventKind::Node(_) | EventKind::NodeRemoved(_) => Ok(false),
        }
    }

    async fn is_of_it(&mut self, task: TaskId) -> Result<bool, Failure> {
        if let Some(known) = self.known.get(&task) {
            return Ok(*known);
        }
        match self.api.task(task).await {
            Ok(task) => {
                let record = &task.view.record;
                Ok(self.note(record.id, record.spec.namespace == self.namespace))
            }
            // The task was forgotten meanwhile.
            Err(error) if error.status() == Some(404) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn note(&mut self, task: TaskId, is_of_it: bool) -> bool {
        if self.known.len() >= Self::KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(task, is_of_it);
        is_of_it
    }
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
        EventKind::Observed { attempt, kind } => {
            format!("task {} attempt {} {}", attempt.task.short(), attempt.attempt, words(kind))
        }
    };
    format!("{:>8}  {}", event.revision.0, table::one_line(&text))
}

/// Observation of an agent as text.
pub(super) fn words(kind: &ObservationKind) -> String {
    match kind {
        ObservationKind::Progress(text) => text.clone(),
        ObservationKind::Running { handle, .. } => {
            format!("running ({})", handle.chars().take(12).collect::<String>())
        }
        ObservationKind::Usage(usage) => format!("uses {}", table::memory(usage.memory_bytes)),
        ObservationKind::Health(true) => "is well".into(),
        ObservationKind::Health(false) => "fails its health check".into(),
        ObservationKind::Output { .. } => "wrote".into(),
    }
}

fn for_programs(event: &Event) -> serde_json::Value {
    let revision = event.revision;
    match &event.kind {
        EventKind::Task(record) => json!({ "revision": revision, "task": record }),
        EventKind::TaskForgotten(id) => json!({ "revision": revision, "task_forgotten": id }),
        EventKind::Node(record) => json!({ "revision": revision, "node": record }),
        EventKind::NodeRemoved(id) => json!({ "revision": revision, "node_removed": id }),
        EventKind::Observed { attempt, kind } => {
            json!({ "revision": revision, "observed": { "attempt": attempt, "seen": kind } })
        }
    }
}
