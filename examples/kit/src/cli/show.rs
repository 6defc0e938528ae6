//! `orch show`, `orch explain`.

use std::fmt::Write as _;

use orch_core::{model::Workload, state::TaskStatus};
use orch_net::http::wire::TaskInfo;

use super::{
    resolve::{Finder, Means},
    session::Session,
    table, why,
};
use crate::failure::Failure;

pub(super) async fn show(session: &Session, reference: &str) -> Result<(), Failure> {
    let api = &*session.api;
    let finder = Finder { session, command: "show", means: Means::Any };
    let id = finder.find(reference).await?;
    let mut task = api.task(id).await?;
    if task.status == TaskStatus::Pending {
        task.explanation = api.explain(id).await?;
    }
    match session.json {
        true => table::print_json(&task),
        false => table::print(&describe(&task)),
    }
}

pub(super) async fn explain(session: &Session, reference: &str) -> Result<(), Failure> {
    let api = &*session.api;
    let finder = Finder { session, command: "explain", means: Means::Any };
    let id = finder.find(reference).await?;
    let explanation = api.explain(id).await?;
    if session.json {
        return table::print_json(&explanation);
    }
    let text = match explanation {
        Some(explanation) => explanation.text,
        None => instead(&api.task(id).await?),
    };
    table::print(&(table::one_line(&text) + "\n"))
}

/// State of a task that does not wait for a node, as text.
fn instead(task: &TaskInfo) -> String {
    let node = task.view.record.node().map(|node| format!(" on {node}")).unwrap_or_default();
    let why = why::why(task).map(|why| format!(": {why}")).unwrap_or_default();
    format!("it waits for no node: it is {}{node}{why}", task.status)
}

fn describe(task: &TaskInfo) -> String {
    let (record, observed) = (&task.view.record, task.view.observed.as_ref());
    let spec = &record.spec;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "{:<12} {}", format!("{name}:"), table::one_line(&value));
        }
    };
    line("name", spec.name.clone());
    line("id", record.id.to_string());
    line("namespace", spec.namespace.to_string());
    line("status", task.status.to_string());
    line("why", why::why(task).unwrap_or_default());
    match &spec.workload {
        Workload::Image { image, command, .. } => {
            line("image", image.clone());
            line("entry point", command.join(" "));
        }
        Workload::Program { program } => line("program", program.clone()),
    }
    line("arguments", spec.args.join(" "));
    line("cpu", format!("{} cores", table::cores(spec.resources.cpu_millis)));
    line("memory", table::memory(spec.resources.memory_bytes));
    line("submitted", record.submitted_at.to_string());
    line("node", record.node().map(ToString::to_string).unwrap_or_default());
    if let Some(observed) = observed {
        line("running", observed.running_since.map(|at| format!("since {at}")).unwrap_or_default());
        line("handle", observed.handle.clone().unwrap_or_default());
        line("progress", observed.progress.clone().unwrap_or_default());
        line("uses", observed.usage.map(|usage| table::memory(usage.memory_bytes)).unwrap_or_default());
    }
    let rows = record.attempts.iter().map(|attempt| {
        vec![
            attempt.number.to_string(),
            attempt.node.to_string(),
            attempt.placed_at.to_string(),
            attempt.ended_at.map(|at| at.to_string()).unwrap_or_default(),
            attempt.end.as_ref().map(ToString::to_string).unwrap_or_default(),
        ]
    });
    if !record.attempts.is_empty() {
        text.push('\n');
        text.push_str(&table::render(&["ATTEMPT", "NODE", "PLACED", "ENDED", "HOW"], rows));
    }
    text
}
