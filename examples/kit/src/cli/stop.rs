//! `orch cancel`, also called `stop`.

use std::io::{BufRead as _, IsTerminal as _};

use clap::Args;
use orch_core::{engine::TaskFilter, model::TaskId, state::TaskStatus};
use orch_net::http::{ClientError, wire::TaskInfo};
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    resolve::{Finder, Means, unfinished},
    selection::Selection,
    session::Session,
    table,
};
use crate::{config::units::show_count, failure::Failure, say};

#[derive(Debug, Args)]
pub struct StopArgs {
    /// Ids, beginnings of ids, or names.
    #[arg(conflicts_with_all = ["all", "status", "name", "node", "label"])]
    tasks: Vec<String>,
    /// Every unfinished task; asks first.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    selection: Selection,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Reason, for people.
    #[arg(long, default_value = "")]
    reason: String,
}

/// Result of one task.
#[derive(Debug, Serialize)]
struct Stopped {
    id: String,
    result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip)]
    code: u8,
}

/// Number of concurrent calls.
const AT_ONCE: usize = 16;
/// Number of tasks that are requested at a time.
const PAGE: usize = 200;

pub(super) async fn stop(session: &Session, args: StopArgs) -> Result<(), Failure> {
    let mut report = Report { session, stopped: Vec::new(), failed: Vec::new() };
    if args.tasks.is_empty() {
        stop_all(session, &args, &mut report).await?;
    } else {
        stop_named(session, &args, &mut report).await?;
    }
    report.end()
}

async fn stop_named(session: &Session, args: &StopArgs, report: &mut Report<'_>) -> Result<(), Failure> {
    let finder = Finder { session, command: "stop", means: Means::GoingOn };
    let mut ids = Vec::new();
    for reference in &args.tasks {
        match finder.find(reference).await {
            Ok(id) => ids.push(id),
            Err(failure) if failure.cause.is_some() => return Err(failure),
            Err(failure) => report.note(Stopped::failed(reference.clone(), &failure))?,
        }
    }
    stop_some(session, &ids, &args.reason, false, report).await
}

async fn stop_all(session: &Session, args: &StopArgs, report: &mut Report<'_>) -> Result<(), Failure> {
    let Selection { status, .. } = &args.selection;
    if args.selection.is_empty() && !args.all {
        return Err(Failure::usage(
            "say which tasks: ids, names, --label, --status, --node, --name, or --all",
        ));
    }
    if let Some(over) = status.iter().find(|status| status.is_finished()) {
        return Err(Failure::usage(format!("--status {over}: those are over, and cannot be cancelled")));
    }
    let mut filter = TaskFilter { newest_first: true, limit: PAGE, ..args.selection.filter(session) };
    if status.is_empty() {
        // Those that are stopping need nothing more.
        filter.statuses = unfinished().filter(|status| *status != TaskStatus::Stopping).collect();
    }
    if args.all && !args.yes {
        let count = session.api.tasks_with_reasons(&TaskFilter { limit: 1, ..filter.clone() }).await?.total;
        match count.unwrap_or_default() {
            0 => return Ok(()),
            count => confirm(count)?,
        }
    }
    loop {
        let page = session.api.tasks(&filter).await?;
        let id = |task: &TaskInfo| task.view.record.id;
        let ids: Vec<TaskId> = page.tasks.iter().map(id).collect();
        stop_some(session, &ids, &args.reason, true, report).await?;
        match page.next {
            Some(next) => filter.after_seq = Some(next),
            None => return Ok(()),
        }
    }
}

/// Stops the tasks. For tasks selected by a filter it is no failure when one has ended meanwhile.
async fn stop_some(
    session: &Session,
    ids: &[TaskId],
    reason: &str,
    may_be_over: bool,
    report: &mut Report<'_>,
) -> Result<(), Failure> {
    for some in ids.chunks(AT_ONCE) {
        let mut calls = JoinSet::new();
        for (at, id) in some.iter().copied().enumerate() {
            let (api, reason) = (session.api.clone(), reason.to_owned());
            calls.spawn(async move { (at, id, api.cancel(id, &reason).await) });
        }
        let mut answers = calls.join_all().await;
        answers.sort_unstable_by_key(|(at, ..)| *at);
        for (_, id, answer) in answers {
            let is_over = |error: &ClientError| error.code() == Some("already_finished");
            report.note(match answer {
                Ok(_) => Stopped::done(id),
                Err(error) if may_be_over && is_over(&error) => {
                    Stopped { result: "over".into(), ..Stopped::done(id) }
                }
                Err(error) => {
                    let failure = Failure::from(error);
                    if failure.cause.is_some() {
                        return Err(failure);
                    }
                    Stopped::failed(id.to_string(), &failure)
                }
            })?;
        }
    }
    Ok(())
}

fn confirm(count: u64) -> Result<(), Failure> {
    let tasks = format!("{} task{}", show_count(count), if count == 1 { "" } else { "s" });
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::usage(format!("this stops {tasks}; give --yes where that is meant")));
    }
    say::show(format_args!("Stop {tasks}? [y/N] "));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match matches!(answer.trim(), "y" | "Y" | "yes") {
        true => Ok(()),
        false => Err(Failure::other("nothing was stopped")),
    }
}

impl Stopped {
    fn done(id: TaskId) -> Self {
        Self { id: id.to_string(), result: "done".into(), error: None, code: 0 }
    }

    fn failed(id: String, failure: &Failure) -> Self {
        Self { id, result: "failed".into(), error: Some(failure.message.clone()), code: failure.code }
    }
}

/// Results of all tasks, each printed as soon as it is known.
struct Report<'a> {
    session: &'a Session,
    /// Results for JSON, which is one list.
    stopped: Vec<Stopped>,
    failed: Vec<(u8, String)>,
}

impl Report<'_> {
    fn note(&mut self, stopped: Stopped) -> Result<(), Failure> {
        if let Some(error) = &stopped.error {
            let text =
                if error.contains(&stopped.id) { error.clone() } else { format!("{}: {error}", stopped.id) };
            self.failed.push((stopped.code, text));
        } else if !self.session.json && stopped.result == "done" {
            table::print(&format!("{} cancelled\n", stopped.id))?;
        }
        self.stopped.push(stopped);
        Ok(())
    }

    /// Ends with the exit code of the failures, where all tasks failed in the same way.
    fn end(self) -> Result<(), Failure> {
        if self.session.json {
            table::print_json(&self.stopped)?;
        }
        if self.stopped.is_empty() {
            self.session.note("no task is like that");
        }
        let Some((code, _)) = self.failed.first() else { return Ok(()) };
        let alike =
            self.failed.len() == self.stopped.len() && self.failed.iter().all(|(other, _)| other == code);
        let texts: Vec<&str> = self.failed.iter().map(|(_, text)| text.as_str()).collect();
        Err(Failure::new(
            if alike { *code } else { 1 },
            texts.join(&format!("\n{}: ", self.session.style.program)),
        ))
    }
}
