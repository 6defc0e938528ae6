//! Received messages by priority: what agreement rests on goes first, and requests and pieces of the state
//! wait in a queue of their own, with bounds for each sender, so that no flood of them delays a vote.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::pbft::core::{ids::PublicKey, message::MessageClass};

/// Messages of one sender in the slow queue. One more is dropped; requests and queries for pieces of the
/// state are sent again.
const SLOW_MESSAGES_MAX: usize = 256;
/// Their bytes.
const SLOW_BYTES_MAX: usize = 16 << 20;
/// The largest message of a sender that is neither member nor client: a status, or a query for a piece of the
/// state.
const NON_MEMBER_BYTES_MAX: usize = 256;
/// Senders that are neither, at a time.
const NON_MEMBERS_MAX: usize = 16;

/// Relation of a sender to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// A member, now or at the beginning, or a client that the configuration names.
    Known,
    /// Any other peer that the transport lets in: a future member that wants to know where the group is.
    NonMember,
}

/// Messages by priority.
#[derive(Debug, Default)]
pub(super) struct PriorityQueues {
    fast: VecDeque<(PublicKey, Bytes)>,
    slow: BTreeMap<PublicKey, Queue>,
    /// Senders in the slow queue, each once.
    turns: VecDeque<PublicKey>,
    non_members: usize,
}

#[derive(Debug)]
struct Queue {
    messages: VecDeque<Bytes>,
    bytes: usize,
    sender: Sender,
}

impl PriorityQueues {
    /// Adds a message, or drops it. One of an unknown kind or another version is dropped here.
    pub(super) fn push(&mut self, from: PublicKey, sender: Sender, message: Bytes) {
        let Some(class) = MessageClass::of_wire(&message) else {
            tracing::debug!(?from, "a message of an unknown kind is dropped");
            return;
        };
        match (sender, class) {
            (Sender::Known, MessageClass::Agreement) => self.fast.push_back((from, message)),
            (Sender::Known, MessageClass::Bulk | MessageClass::Query) => {
                self.push_slow(from, sender, message);
            }
            (Sender::NonMember, MessageClass::Query) if message.len() <= NON_MEMBER_BYTES_MAX => {
                if self.non_members < NON_MEMBERS_MAX || self.slow.contains_key(&from) {
                    self.push_slow(from, sender, message);
                }
            }
            (Sender::NonMember, _) => {
                tracing::debug!(?from, "a message of a sender that is no member is dropped");
            }
        }
    }

    fn push_slow(&mut self, from: PublicKey, sender: Sender, message: Bytes) {
        let non_members = &mut self.non_members;
        let turns = &mut self.turns;
        let queue = self.slow.entry(from).or_insert_with(|| {
            *non_members += usize::from(sender == Sender::NonMember);
            turns.push_back(from);
            Queue { messages: VecDeque::new(), bytes: 0, sender }
        });
        if queue.messages.len() >= SLOW_MESSAGES_MAX || queue.bytes + message.len() > SLOW_BYTES_MAX {
            tracing::debug!(?from, "too many requests wait; one is dropped");
            return;
        }
        queue.bytes += message.len();
        queue.messages.push_back(message);
    }

    /// The next message of the fast queue.
    pub(super) fn next_fast(&mut self) -> Option<(PublicKey, Bytes)> {
        self.fast.pop_front()
    }

    /// The next message of the slow queue; senders take turns.
    pub(super) fn next_slow(&mut self) -> Option<(PublicKey, Bytes)> {
        let from = self.turns.pop_front()?;
        let queue = self.slow.get_mut(&from)?;
        let message = queue.messages.pop_front();
        queue.bytes -= message.as_ref().map_or(0, Bytes::len);
        if queue.messages.is_empty() {
            self.non_members -= usize::from(queue.sender == Sender::NonMember);
            self.slow.remove(&from);
        } else {
            self.turns.push_back(from);
        }
        message.map(|message| (from, message))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fast.is_empty() && self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pbft::{Batch, Body, Epoch, Fetch, Message, Request, Seq, Status, View};

    fn key(number: u8) -> PublicKey {
        PublicKey([number; 32])
    }

    fn request(from: u8) -> Bytes {
        let request = Request::new(key(from), 1, 1, 0, Body::Barrier);
        Message::Request(Arc::new(request)).to_wire().into()
    }

    fn query() -> Bytes {
        Message::ReadQuery(1).to_wire().into()
    }

    #[test]
    fn questions_of_non_members_fit_their_bound() {
        let fetch = Fetch::Batch(Seq(1), Batch::null().digest());
        let status =
            Status { epoch: Epoch(0), view: View(0), changing: false, stable: Seq(0), executed: Seq(0) };
        for question in [Message::Fetch(fetch), Message::Status(status)] {
            assert_eq!(question.class(), MessageClass::Query);
            assert!(question.to_wire().len() <= NON_MEMBER_BYTES_MAX);
        }
    }

    #[test]
    fn what_cannot_be_read_is_dropped() {
        let mut queues = PriorityQueues::default();
        let other_version = query().iter().map(|byte| byte.wrapping_add(1)).collect();
        for unknown in [Bytes::new(), Bytes::from_static(&[1]), Bytes::from_static(&[1, 99]), other_version] {
            queues.push(key(1), Sender::Known, unknown);
        }
        assert!(queues.is_empty());
    }

    #[test]
    fn a_flood_of_one_sender_costs_only_its_own() {
        let mut queues = PriorityQueues::default();
        for _ in 0..10_000 {
            queues.push(key(1), Sender::Known, request(1));
        }
        queues.push(key(2), Sender::Known, request(2));
        queues.push(key(2), Sender::Known, query());
        assert_eq!(queues.next_fast(), Some((key(2), query())));
        assert_eq!(queues.next_fast(), None);
        assert_eq!(queues.next_slow().map(|(from, _)| from), Some(key(1)));
        assert_eq!(queues.next_slow().map(|(from, _)| from), Some(key(2)));
        let rest = std::iter::from_fn(|| queues.next_slow()).count();
        assert_eq!(rest, SLOW_MESSAGES_MAX - 1);
        assert!(queues.is_empty());
    }

    #[test]
    fn strangers_may_ask_and_nothing_else() {
        let mut queues = PriorityQueues::default();
        let fetch = Bytes::from(Message::Fetch(Fetch::Digests(Seq(0), Seq(9))).to_wire());
        queues.push(key(9), Sender::NonMember, request(9));
        queues.push(key(9), Sender::NonMember, query());
        assert!(queues.is_empty());
        for number in 0..100 {
            queues.push(key(number), Sender::NonMember, fetch.clone());
        }
        assert_eq!(std::iter::from_fn(|| queues.next_slow()).count(), NON_MEMBERS_MAX);
        queues.push(key(9), Sender::NonMember, fetch);
        assert!(!queues.is_empty());
    }
}
