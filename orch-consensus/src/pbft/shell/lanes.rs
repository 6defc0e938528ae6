//! What arrived, sorted: what agreement rests on goes first, and requests and parts of the state wait in a lane of their own, with
//! bounds for each sender, so that no flood of them delays a vote.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::pbft::ids::PublicKey;

/// Messages of one sender that wait in the slow lane. One more pushes out none of them and is lost; requests and questions for
/// parts of the state are sent again.
const SLOW_MESSAGES_MAX: usize = 256;
/// Their bytes.
const SLOW_BYTES_MAX: usize = 16 << 20;
/// The largest message of somebody who is neither member nor client: a status, or a question for a part of the state.
const STRANGER_BYTES_MAX: usize = 256;
/// Strangers that are listened to at a time.
const STRANGERS_MAX: usize = 16;

/// Who sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// A member, now or at the beginning, or a client that the configuration names.
    Known,
    /// Whoever else the transport lets in: somebody who will be a member and wants to know where the group is.
    Stranger,
}

/// Messages by lane.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    fast: VecDeque<(PublicKey, Bytes)>,
    slow: BTreeMap<PublicKey, Queue>,
    /// Senders in the slow lane, each once.
    turns: VecDeque<PublicKey>,
    strangers: usize,
}

#[derive(Debug)]
struct Queue {
    messages: VecDeque<Bytes>,
    bytes: usize,
    sender: Sender,
}

/// The kind of a message, by its second byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fast,
    Slow,
    /// Slow, and strangers may ask it.
    Question,
}

impl Kind {
    fn of(message: &[u8]) -> Self {
        match message.get(1) {
            // Status and Fetch.
            Some(8 | 9) => Self::Question,
            // Request, Stable, Supply and Reply.
            Some(0 | 6 | 10 | 13) => Self::Slow,
            _ => Self::Fast,
        }
    }
}

impl Lanes {
    /// Takes in a message, or drops it.
    pub(super) fn push(&mut self, from: PublicKey, sender: Sender, message: Bytes) {
        let kind = Kind::of(&message);
        match (sender, kind) {
            (Sender::Known, Kind::Fast) => self.fast.push_back((from, message)),
            (Sender::Known, _) => self.push_slow(from, sender, message),
            (Sender::Stranger, Kind::Question) if message.len() <= STRANGER_BYTES_MAX => {
                if self.strangers < STRANGERS_MAX || self.slow.contains_key(&from) {
                    self.push_slow(from, sender, message);
                }
            }
            (Sender::Stranger, _) => tracing::debug!(?from, "a message of a stranger is dropped"),
        }
    }

    fn push_slow(&mut self, from: PublicKey, sender: Sender, message: Bytes) {
        let strangers = &mut self.strangers;
        let turns = &mut self.turns;
        let queue = self.slow.entry(from).or_insert_with(|| {
            *strangers += usize::from(sender == Sender::Stranger);
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

    /// The next message of the fast lane.
    pub(super) fn next_fast(&mut self) -> Option<(PublicKey, Bytes)> {
        self.fast.pop_front()
    }

    /// The next message of the slow lane; senders take turns.
    pub(super) fn next_slow(&mut self) -> Option<(PublicKey, Bytes)> {
        let from = self.turns.pop_front()?;
        let queue = self.slow.get_mut(&from)?;
        let message = queue.messages.pop_front();
        queue.bytes -= message.as_ref().map_or(0, Bytes::len);
        if queue.messages.is_empty() {
            self.strangers -= usize::from(queue.sender == Sender::Stranger);
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
    fn kinds_are_what_the_wire_says() {
        let fetch = Fetch::Batch(Seq(1), Batch::null().digest());
        let status =
            Status { epoch: Epoch(0), view: View(0), changing: false, stable: Seq(0), executed: Seq(0) };
        for question in [Message::Fetch(fetch), Message::Status(status)] {
            assert_eq!(Kind::of(&question.to_wire()), Kind::Question);
            assert!(question.to_wire().len() <= STRANGER_BYTES_MAX);
        }
        assert_eq!(Kind::of(&request(1)), Kind::Slow);
        assert_eq!(Kind::of(&query()), Kind::Fast);
        assert_eq!(Kind::of(&[]), Kind::Fast, "it is refused when it is read");
    }

    #[test]
    fn a_flood_of_one_sender_costs_only_its_own() {
        let mut lanes = Lanes::default();
        for _ in 0..10_000 {
            lanes.push(key(1), Sender::Known, request(1));
        }
        lanes.push(key(2), Sender::Known, request(2));
        lanes.push(key(2), Sender::Known, query());
        assert_eq!(lanes.next_fast(), Some((key(2), query())));
        assert_eq!(lanes.next_fast(), None);
        assert_eq!(lanes.next_slow().map(|(from, _)| from), Some(key(1)));
        assert_eq!(lanes.next_slow().map(|(from, _)| from), Some(key(2)));
        let rest = std::iter::from_fn(|| lanes.next_slow()).count();
        assert_eq!(rest, SLOW_MESSAGES_MAX - 1);
        assert!(lanes.is_empty());
    }

    #[test]
    fn strangers_may_ask_and_nothing_else() {
        let mut lanes = Lanes::default();
        let fetch = Bytes::from(Message::Fetch(Fetch::Digests(Seq(0), Seq(9))).to_wire());
        lanes.push(key(9), Sender::Stranger, request(9));
        lanes.push(key(9), Sender::Stranger, query());
        assert!(lanes.is_empty());
        for number in 0..100 {
            lanes.push(key(number), Sender::Stranger, fetch.clone());
        }
        assert_eq!(std::iter::from_fn(|| lanes.next_slow()).count(), STRANGERS_MAX);
        lanes.push(key(9), Sender::Stranger, fetch);
        assert!(!lanes.is_empty());
    }
}
