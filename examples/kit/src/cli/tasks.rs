//! `orch list`, `orch wait`.

use std::time::Duration;

use clap::Args;
use orch_core::engine::TaskFilter;
use orch_net::http::{Api, wire::TaskInfo};

use super::{
    exit,
    progress::Progress,
    resolve::{Finder, Means},
    selection::Selection,
    session::Session,
    table, why,
};
use crate::{
    config::units::{show_count, show_duration},
    failure::Failure,
};

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    selection: Selection,
    /// At most this many.
    #[arg(long, value_name = "COUNT", default_value_t = LIMIT)]
    limit: usize,
    /// All matching tasks.
    #[arg(short, long, conflicts_with = "limit")]
    all: bool,
    /// List in order of submission.
    #[arg(long)]
    oldest_first: bool,
}

const LIMIT: usize = 1000;
/// Maximum number of tasks that a server returns at a time.
const PAGE: usize = 1000;

impl Default for ListArgs {
    fn default() -> Self {
        Self { selection: Selection::default(), limit: LIMIT, all: false, oldest_first: false }
    }
}

pub(super) async fn list(session: &Session, args: ListArgs) -> Result<(), Failure> {
    let api = &*session.api;
    let limit = if args.all { usize::MAX } else { args.limit };
    let filter = TaskFilter {
        newest_first: !args.oldest_first,
        limit: limit.clamp(1, PAGE),
        ..args.selection.filter(session)
    };
    let (tasks, total) = collect(api, filter, limit).await?;
    match session.json {
        true => table::print_json(&tasks)?,
        false => table::print(&table_of(&tasks))?,
    }
    tell_what_is_left_out(session, tasks.len() as u64, total);
    Ok(())
}

/// Collects tasks page by page, and their total number.
async fn collect(
    api: &dyn Api,
    mut filter: TaskFilter,
    limit: usize,
) -> Result<(Vec<TaskInfo>, Option<u64>), Failure> {
    let first = api.tasks_with_reasons(&filter).await?;
    let (mut tasks, mut next) = (first.tasks, first.next);
    tasks.truncate(limit);
    while let Some(after) = next.filter(|_| tasks.len() < limit) {
        filter.after_seq = Some(after);
        filter.limit = (limit - tasks.len()).min(PAGE);
        let page = api.tasks(&filter).await?;
        tasks.extend(page.tasks);
        next = page.next;
    }
    Ok((tasks, first.total))
}

fn tell_what_is_left_out(session: &Session, shown: u64, total: Option<u64>) {
    if let Some(total) = total.filter(|total| *total > shown) {
        let (shown, total) = (show_count(shown), show_count(total));
        session.note(format_args!("{shown} of {total} tasks shown; --all shows all, --limit N more"));
    }
}

fn table_of(tasks: &[TaskInfo]) -> String {
    let with_namespace = tasks.iter().any(|task| !task.view.record.spec.namespace.is_default());
    let mut head = vec!["NAME", "ID", "WORK", "STATUS", "NODE", "ATTEMPT", "AGE", "WHY"];
    if with_namespace {
        head.insert(0, "NAMESPACE");
    }
    let rows = tasks.iter().map(|task| {
        let mut row = row(task);
        if with_namespace {
            row.insert(0, task.view.record.spec.namespace.to_string());
        }
        row
    });
    table::render_to_fit(&head, rows)
}

/// Row of the table for a task.
fn row(task: &TaskInfo) -> Vec<String> {
    use orch_core::model::Workload;
    let record = &task.view.record;
    let work = match &record.spec.workload {
        Workload::Image { image, .. } => image.clone(),
        Workload::Program { program } => program.clone(),
    };
    let node = record.node().or_else(|| record.attempts.last().map(|attempt| &attempt.node));
    vec![
        record.spec.name.clone(),
        record.id.short(),
        work,
        task.status.to_string(),
        node.map(ToString::to_string).unwrap_or_default(),
        if record.attempts_made == 0 { String::new() } else { record.attempts_made.to_string() },
        table::ago(record.submitted_at),
        why::why(task).unwrap_or_default(),
    ]
}

pub(super) async fn wait(
    session: &Session,
    references: &[String],
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let api = &*session.api;
    let finder = Finder { session, command: "wait", means: Means::GoingOn };
    let progress = Progress::new();
    let all = async {
        let (mut ids, mut done) = (Vec::new(), Vec::new());
        for reference in references {
            ids.push(finder.find(reference).await?);
        }
        for id in &ids {
            progress.show(&format!("{} of {} finished", done.len(), ids.len()));
            done.push(api.wait(*id).await?);
        }
        Ok::<_, Failure>(done)
    };
    let done = match timeout {
        None => all.await?,
        Some(timeout) => tokio::time::timeout(timeout, all)
            .await
            .map_err(|_| Failure::out_of_time(format!("not finished after {}", show_duration(timeout))))??,
    };
    drop(progress);
    if session.json {
        table::print_json(&done)?;
    } else {
        let lines = done.iter().map(|task| format!("{} {}\n", task.view.record.id, task.status));
        table::print(&lines.collect::<String>())?;
    }
    done.iter().try_for_each(exit::of_task)
}
