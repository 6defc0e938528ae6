//! `orch list`, `orch wait`, `orch cancel`.

use std::time::Duration;

use clap::Args;
use orch_core::{engine::TaskFilter, model::NodeId};
use orch_net::http::wire::TaskInfo;

use super::{
    connect::{Connect, resolve},
    exit::{self, Failure},
    table,
};
use crate::units;

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only tasks with this status: pending, backoff, placed, running, stopping, succeeded, failed, timed-out, cancelled.
    #[arg(long, value_name = "STATUS")]
    status: Vec<String>,
    /// Only tasks with this name.
    #[arg(long)]
    name: Option<String>,
    /// Only tasks on this node now.
    #[arg(long)]
    node: Option<NodeId>,
    /// Only tasks with this free label.
    #[arg(long, value_name = "NAME=VALUE", value_parser = units::pair)]
    label: Option<(String, String)>,
    /// At most this many, the first submitted ones.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

pub(super) async fn list(connect: &Connect, args: ListArgs) -> Result<(), Failure> {
    let client = connect.client()?;
    let mut filter = TaskFilter {
        statuses: args.status,
        name: args.name,
        node: args.node,
        label: args.label,
        ..TaskFilter::default()
    };
    let mut tasks: Vec<TaskInfo> = Vec::new();
    loop {
        filter.limit = (args.limit - tasks.len()).min(1000);
        if filter.limit == 0 {
            break;
        }
        let page = client.tasks(&filter).await?;
        tasks.extend(page.tasks);
        match page.next {
            Some(next) => filter.after_seq = Some(next),
            None => break,
        }
    }
    if connect.json {
        return table::print_json(&tasks);
    }
    let head = ["NAME", "ID", "WORK", "STATUS", "NODE", "ATTEMPT", "AGE", "WHY"];
    table::print(&table::render(&head, tasks.iter().map(row)))
}

/// One line about a task.
pub(super) fn row(task: &TaskInfo) -> Vec<String> {
    use orch_core::model::Workload;
    let record = &task.view.record;
    let work = match &record.spec.workload {
        Workload::Image { image, .. } => image.clone(),
        Workload::Program { program } => program.clone(),
    };
    let node = record.node().or_else(|| record.attempts.last().map(|attempt| &attempt.node));
    let progress = task.view.observed.as_ref().and_then(|observed| observed.progress.clone());
    let why = match task.status.as_str() {
        "succeeded" => None,
        _ => progress.or_else(|| record.last_end().map(ToString::to_string)),
    };
    vec![
        record.spec.name.clone(),
        record.id.short(),
        work,
        task.status.clone(),
        node.map(ToString::to_string).unwrap_or_default(),
        if record.attempts_made == 0 { String::new() } else { record.attempts_made.to_string() },
        table::ago(record.submitted_at),
        why.map(|why| cut(&why)).unwrap_or_default(),
    ]
}

fn cut(text: &str) -> String {
    const MOST: usize = 60;
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match line.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

pub(super) async fn wait(
    connect: &Connect,
    references: &[String],
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let client = connect.client()?;
    let all = async {
        let mut done = Vec::new();
        for reference in references {
            let id = resolve(&client, reference).await?;
            done.push(client.wait(id).await?);
        }
        Ok::<_, Failure>(done)
    };
    let done = match timeout {
        None => all.await?,
        Some(timeout) => tokio::time::timeout(timeout, all)
            .await
            .map_err(|_| Failure::out_of_time(format!("not finished after {timeout:?}")))??,
    };
    if connect.json {
        table::print_json(&done)?;
    } else {
        let lines = done.iter().map(|task| format!("{} {}\n", task.view.record.id, task.status));
        table::print(&lines.collect::<String>())?;
    }
    done.iter().try_for_each(exit::of_task)
}

pub(super) async fn cancel(connect: &Connect, references: &[String], reason: &str) -> Result<(), Failure> {
    let client = connect.client()?;
    for reference in references {
        let id = resolve(&client, reference).await?;
        client.cancel(id, reason).await?;
        if !connect.json {
            table::print(&format!("{id} cancelled\n"))?;
        }
    }
    Ok(())
}
