//! Resolution of task references of the command line.

use orch_core::{engine::TaskFilter, model::TaskId, state::TaskStatus};
use orch_net::http::wire::TaskInfo;

use super::{session::Session, table};
use crate::failure::Failure;

/// The statuses of tasks that are not over.
pub(super) fn unfinished() -> impl Iterator<Item = TaskStatus> {
    TaskStatus::ALL.into_iter().filter(|status| !status.is_finished())
}

/// Choice among several tasks with one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// Ambiguous: the user has to choose.
    Any,
    /// The unfinished one, where there is exactly one.
    GoingOn,
}

/// Resolver of tasks for one command.
pub(super) struct Finder<'a> {
    pub(super) session: &'a Session,
    /// Command as typed, for the advice to call it with an id.
    pub(super) command: &'a str,
    pub(super) means: Means,
}

impl Finder<'_> {
    /// The task that `reference` refers to: an id, the beginning of one, or a name. Names need not be unique.
    pub(super) async fn find(&self, reference: &str) -> Result<TaskId, Failure> {
        if let Ok(id) = reference.parse() {
            return Ok(id);
        }
        const SHOWN: usize = 10;
        let filter = TaskFilter {
            namespace: self.session.namespace.clone(),
            newest_first: true,
            limit: SHOWN,
            ..TaskFilter::default()
        };
        let named = TaskFilter { name: Some(reference.into()), ..filter.clone() };
        let page = self.session.api.tasks(&named).await?;
        let (mut found, mut more) = (page.tasks, page.next.is_some());
        let could_be_id =
            reference.len() >= 2 && reference.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if could_be_id {
            let by_id = TaskFilter { id_prefix: Some(reference.to_ascii_lowercase()), ..filter };
            let page = self.session.api.tasks(&by_id).await?;
            more |= page.next.is_some();
            found.extend(page.tasks);
        }
        found.sort_by_key(|task| std::cmp::Reverse(task.view.record.seq));
        found.dedup_by_key(|task| task.view.record.id);
        match found.as_slice() {
            [] => Err(Failure::unknown(self.unknown(reference))),
            [task] => Ok(task.view.record.id),
            several => {
                if self.means == Means::GoingOn
                    && let Some(task) = self.only_one_going_on(&named).await?
                {
                    self.say_which(reference, &task);
                    return Ok(task.view.record.id);
                }
                Err(Failure::usage(self.ambiguous(reference, several, more)))
            }
        }
    }

    async fn only_one_going_on(&self, named: &TaskFilter) -> Result<Option<TaskInfo>, Failure> {
        let statuses = unfinished().collect();
        let going_on = TaskFilter { statuses, limit: 2, ..named.clone() };
        let mut tasks = self.session.api.tasks(&going_on).await?.tasks;
        Ok(if tasks.len() == 1 { tasks.pop() } else { None })
    }

    fn unknown(&self, reference: &str) -> String {
        let place = self.session.namespace.as_ref().map(|namespace| format!(" in the namespace {namespace}"));
        format!("no task{} has the name or id {reference:?}", place.unwrap_or_default())
    }

    fn ambiguous(&self, reference: &str, several: &[TaskInfo], more: bool) -> String {
        let rows = several.iter().map(|task| {
            let record = &task.view.record;
            vec![
                format!("  {}", record.id),
                record.spec.name.clone(),
                record.spec.namespace.to_string(),
                task.status.to_string(),
                table::ago(record.submitted_at),
            ]
        });
        let table = table::render(&["  ID", "NAME", "NAMESPACE", "STATUS", "AGE"], rows);
        let count = if more { format!("more than {}", several.len()) } else { several.len().to_string() };
        let newest = several.first().map(|task| task.view.record.id.to_string()).unwrap_or_default();
        format!(
            "{reference:?} means {count} tasks, the newest first:\n{table}  Give an id or its beginning, such as: {} {} {newest}",
            self.session.style.program, self.command
        )
    }

    fn say_which(&self, reference: &str, task: &TaskInfo) {
        let record = &task.view.record;
        self.session.note(format_args!(
            "of the tasks {reference}, {} is the only one that is not over ({})",
            record.id.short(),
            task.status
        ));
    }
}
