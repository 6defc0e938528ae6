//! Indexes that a list of tasks looks through.

use super::{super::tasks::TaskFilter, Inner};
use crate::model::{NodeId, TaskId};

/// Tasks that a filter may match, some at a time, by the index that leaves out the most.
pub(super) enum Source {
    BySeq { from: u64, unfinished: bool },
    BySeqDown { before: u64, unfinished: bool },
    ById { range: Option<(TaskId, TaskId)>, down: bool },
    OnNode(Option<NodeId>),
}

impl Source {
    pub(super) fn new(filter: &TaskFilter) -> Self {
        let range = filter.id_prefix.as_deref().and_then(ids_with);
        let unfinished =
            !filter.statuses.is_empty() && !filter.statuses.iter().any(|status| status.is_finished());
        match (&filter.node, range) {
            (Some(node), _) => Self::OnNode(Some(node.clone())),
            (None, Some(range)) => Self::ById { range: Some(range), down: filter.newest_first },
            (None, None) if filter.newest_first => {
                Self::BySeqDown { before: filter.after_seq.unwrap_or(u64::MAX), unfinished }
            }
            (None, None) => {
                Self::BySeq { from: filter.after_seq.map_or(0, |seq| seq.saturating_add(1)), unfinished }
            }
        }
    }

    /// At most about `many` more; none when there are no more.
    pub(super) fn next(&mut self, inner: &Inner, many: usize) -> Vec<TaskId> {
        match self {
            Self::BySeq { from, unfinished } => {
                let tasks = if *unfinished { &inner.unfinished } else { &inner.by_seq };
                let some: Vec<(u64, TaskId)> =
                    tasks.range(*from..).take(many).map(|(seq, id)| (*seq, *id)).collect();
                *from = some.last().map_or(u64::MAX, |(seq, _)| seq + 1);
                some.into_iter().map(|(_, id)| id).collect()
            }
            Self::BySeqDown { before, unfinished } => {
                let tasks = if *unfinished { &inner.unfinished } else { &inner.by_seq };
                let some: Vec<(u64, TaskId)> =
                    tasks.range(..*before).rev().take(many).map(|(seq, id)| (*seq, *id)).collect();
                *before = some.last().map_or(0, |(seq, _)| *seq);
                some.into_iter().map(|(_, id)| id).collect()
            }
            Self::ById { range, down } => {
                let Some((first, last)) = *range else { return Vec::new() };
                let all = inner.by_id.range(first..=last).copied();
                let mut some: Vec<TaskId> = match down {
                    true => all.rev().take(many + 1).collect(),
                    false => all.take(many + 1).collect(),
                };
                let next = if some.len() > many { some.pop() } else { None };
                *range = next.map(|next| if *down { (first, next) } else { (next, last) });
                some
            }
            // A node has no more tasks than may be looked at in one go.
            Self::OnNode(node) => {
                let tasks = node.take().and_then(|node| inner.by_node.get(&node));
                tasks.into_iter().flatten().copied().collect()
            }
        }
    }
}

/// The first and the last id whose text begins with `prefix`; `None` when none does.
fn ids_with(prefix: &str) -> Option<(TaskId, TaskId)> {
    let bound = |fill: char| {
        let mut digits: String = prefix.chars().filter(|digit| *digit != '-').take(32).collect();
        digits.extend(std::iter::repeat_n(fill, 32 - digits.chars().count()));
        digits.parse().ok()
    };
    Some((bound('0')?, bound('f')?))
}
