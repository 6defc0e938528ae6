//! Places of a worker. It never tells of ends, so that its places are free again only by a rule of
//! the operator's.

use orch_core::{
    engine::{LinkError, TaskFilter},
    model::{AttemptEnd, Exit, NodeId, Report, ReportKind, Session, TaskSpec, Timestamp},
    scheduler::Objection,
    state::TaskStatus,
};
use tracing::info;

use super::Manager;

/// Takes tasks for done, by the rules of the configuration.
pub(super) async fn free(app: &Manager, node: &NodeId, session: &Session) -> Result<(), LinkError> {
    if app.config.done_after.is_none() && app.config.running_max.is_none() {
        return Ok(());
    }
    let statuses = vec![TaskStatus::Running];
    let filter =
        TaskFilter { statuses, node: Some(node.clone()), limit: usize::MAX, ..TaskFilter::default() };
    let running = app.orchestrator.list(&filter);
    let mut running: Vec<_> = running
        .iter()
        .filter_map(|task| Some((task.running_since()?, task.record.current_attempt()?)))
        .collect();
    running.sort_unstable();
    let most = app.config.running_max.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let (beyond, now) = (running.len().saturating_sub(most), Timestamp::now());
    let old = |since: Timestamp| app.config.done_after.is_some_and(|limit| now.since(since) > limit);
    let done: Vec<Report> = running
        .iter()
        .enumerate()
        .filter(|(at, (since, _))| *at < beyond || old(*since))
        .map(|(_, (_, attempt))| {
            let kind = ReportKind::Ended(AttemptEnd::Exited { exit: Exit::from_code(0) });
            Report { attempt: *attempt, node: node.clone(), kind }
        })
        .collect();
    if !done.is_empty() {
        info!(%node, tasks = done.len(), "tasks of a rust-orch worker are taken for done");
        app.link.report(session, done).await?;
    }
    Ok(())
}

/// Note on workers that would take a task if they had a place for it.
pub(super) fn why_full(app: &Manager, task: &TaskSpec) -> Option<String> {
    let nodes = app.config.workers.iter().filter_map(|worker| app.orchestrator.node(worker));
    let full = nodes.filter(|node| matches!(node.objections(task).as_slice(), [Objection::Full { .. }]));
    let texts: Vec<String> = full
        .map(|node| {
            format!(
                "{} holds {} tasks and, as a worker of rust-orch, never tells of their ends",
                node.id(),
                node.tasks
            )
        })
        .collect();
    let rule =
        "the manager can take old ones for done (its options legacy-done-after and legacy-running-max)";
    (!texts.is_empty()).then(|| format!("{}; {rule}", texts.join("; ")))
}
