//! [`Mailboxes`]: for each node the ids of attempts that changed for it, in order, a bounded number of them.
//! An agent that asks for more than is kept gets everything instead.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    engine::link::Cursor,
    model::{AttemptId, NodeId},
};

#[derive(Debug)]
pub(super) struct Mailboxes {
    boxes: Mutex<Boxes>,
    kept: usize,
}

#[derive(Debug)]
struct Boxes {
    epoch: u64,
    by_node: HashMap<NodeId, Mailbox>,
}

#[derive(Debug)]
struct Mailbox {
    /// Number of changes that were posted in all; the last one kept has it.
    posted: watch::Sender<u64>,
    changed: VecDeque<AttemptId>,
}

impl Mailboxes {
    /// `epoch` differs from those of other incarnations of a control side.
    pub(super) fn new(kept: usize, epoch: u64) -> Self {
        Self { boxes: Mutex::new(Boxes { epoch, by_node: HashMap::new() }), kept: kept.max(1) }
    }

    pub(super) fn post(&self, moved: Vec<(NodeId, AttemptId)>) {
        if moved.is_empty() {
            return;
        }
        let mut boxes = self.lock();
        for (node, attempt) in moved {
            // A node that nobody asked for yet gets everything when it asks.
            let Some(mailbox) = boxes.by_node.get_mut(&node) else { continue };
            if mailbox.changed.len() == self.kept {
                mailbox.changed.pop_front();
            }
            mailbox.changed.push_back(attempt);
            mailbox.posted.send_modify(|posted| *posted += 1);
        }
    }

    /// Voids all cursors: the state was replaced.
    pub(super) fn restart(&self) {
        let mut boxes = self.lock();
        boxes.epoch = boxes.epoch.wrapping_add(1);
        for mailbox in boxes.by_node.values_mut() {
            mailbox.changed.clear();
            mailbox.posted.send_modify(|posted| *posted += 1);
        }
    }

    /// Forgets a node that was removed.
    pub(super) fn forget(&self, node: &NodeId) {
        self.lock().by_node.remove(node);
    }

    /// Cursor behind the node's mailbox, and a receiver that is woken by more.
    pub(super) fn open(&self, node: &NodeId) -> (Cursor, watch::Receiver<u64>) {
        let mut boxes = self.lock();
        let epoch = boxes.epoch;
        let mailbox = boxes
            .by_node
            .entry(node.clone())
            .or_insert_with(|| Mailbox { posted: watch::Sender::new(0), changed: VecDeque::new() });
        let position = *mailbox.posted.borrow();
        (Cursor { epoch, position }, mailbox.posted.subscribe())
    }

    /// Changes that were posted after `cursor`, in order, and the cursor behind them; `None` when they are
    /// not known any more. One attempt may be named several times.
    pub(super) fn after(&self, node: &NodeId, cursor: Cursor) -> Option<(Cursor, Vec<AttemptId>)> {
        let boxes = self.lock();
        let mailbox = boxes.by_node.get(node).filter(|_| boxes.epoch == cursor.epoch)?;
        let posted = *mailbox.posted.borrow();
        let new = usize::try_from(posted.checked_sub(cursor.position)?).ok()?;
        let skip = mailbox.changed.len().checked_sub(new)?;
        let changed: Vec<_> = mailbox.changed.iter().skip(skip).copied().collect();
        Some((Cursor { epoch: cursor.epoch, position: posted }, changed))
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Boxes> {
        self.boxes.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::model::TaskId;

    fn attempt(number: u8) -> AttemptId {
        AttemptId { task: TaskId::from_bytes([number; 16]), attempt: NonZeroU32::MIN }
    }

    #[test]
    fn a_reader_gets_what_is_new_or_learns_that_it_missed_something() {
        let node = NodeId::new("n").unwrap();
        let boxes = Mailboxes::new(3, 7);
        let (start, _) = boxes.open(&node);
        boxes.post(vec![(node.clone(), attempt(1)), (node.clone(), attempt(1))]);
        let (next, changed) = boxes.after(&node, start).unwrap();
        assert_eq!(changed, [attempt(1), attempt(1)]);
        assert_eq!(boxes.after(&node, next), Some((next, vec![])));

        boxes.post((2..6).map(|number| (node.clone(), attempt(number))).collect());
        assert_eq!(boxes.after(&node, next), None, "four are new, three are kept");
        let (now, _) = boxes.open(&node);
        boxes.restart();
        assert_eq!(boxes.after(&node, now), None, "another epoch");
    }
}
