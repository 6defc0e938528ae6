use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The events to come, in the order of their time; those of the same time in the order in which they were
/// added.
///
/// The heap moves only keys of 24 bytes. Payloads wait in slots that are used again, so a running simulation
/// allocates nothing for its events.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<Key>>,
    slots: Vec<Option<T>>,
    free: Vec<usize>,
    added: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    time: u64,
    sequence: u64,
    slot: usize,
}

/// An event whose time has come.
#[derive(Debug)]
pub(crate) struct Due<T> {
    pub(crate) time: u64,
    /// Counts the events that were ever added; no two have the same.
    pub(crate) sequence: u64,
    pub(crate) payload: T,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), added: 0 }
    }

    pub(crate) fn push(&mut self, time: u64, payload: T) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(payload);
                slot
            }
            None => {
                self.slots.push(Some(payload));
                self.slots.len() - 1
            }
        };
        self.added += 1;
        self.heap.push(Reverse(Key { time, sequence: self.added, slot }));
    }

    pub(crate) fn next_time(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(key)| key.time)
    }

    pub(crate) fn pop(&mut self) -> Option<Due<T>> {
        let Reverse(Key { time, sequence, slot }) = self.heap.pop()?;
        let payload = self.slots[slot].take()?;
        self.free.push(slot);
        Some(Due { time, sequence, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_in_the_order_of_adding() {
        let mut queue = Queue::new();
        for (time, payload) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            queue.push(time, payload);
        }
        let order: Vec<char> = std::iter::from_fn(|| queue.pop().map(|due| due.payload)).collect();
        assert_eq!(order, ['a', 'b', 'c', 'd']);
        assert_eq!(queue.next_time(), None);
    }

    #[test]
    fn slots_are_used_again() {
        let mut queue = Queue::new();
        for round in 0..1000 {
            queue.push(round, round);
            queue.push(round, round);
            queue.pop();
            queue.pop();
        }
        assert_eq!(queue.slots.len(), 2);
    }
}
