//! Received messages that wait to be taken. Each peer has its own queue, and queues are served in turn, so
//! that a flooding peer only delays itself.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::pin,
    task::{Context, Poll, Waker},
};

use orch_core::transport::{Incoming, PeerId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{frame::HEADER_BYTES, queues::Bounds};

pub(super) struct Inbox {
    /// Bounds of each peer's queue.
    bounds: Bounds,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<PeerId, Queue>,
    /// Peers with messages, each once.
    turns: VecDeque<PeerId>,
    closed: bool,
}

#[derive(Default)]
struct Queue {
    /// Connection that may add messages. An older one would break the order.
    connection: u64,
    messages: VecDeque<Incoming>,
    bytes: usize,
    /// Reader that waits for capacity.
    reader: Option<Waker>,
}

impl Queue {
    fn is_full(&self, bounds: Bounds) -> bool {
        self.messages.len() >= bounds.messages || self.bytes >= bounds.bytes
    }

    /// Whether reading may resume: at half of the bounds, not after every message.
    fn has_room(&self, bounds: Bounds) -> bool {
        self.messages.len() <= bounds.messages / 2 && self.bytes <= bounds.bytes / 2
    }
}

fn size(message: &Incoming) -> usize {
    HEADER_BYTES + message.message.len()
}

/// Whether more may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Left,
    Full,
}

impl Inbox {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, state: Mutex::default(), arrived: Notify::new() }
    }

    /// Makes `connection` the current one with `peer`.
    pub(super) fn open(&self, peer: PeerId, connection: u64) {
        let mut state = self.state();
        if !state.closed {
            state.peers.entry(peer).or_default().connection = connection;
        }
    }

    /// Queues messages of `connection`. Messages of a connection that was replaced are dropped.
    pub(super) fn push(&self, peer: PeerId, connection: u64, batch: &mut Vec<Incoming>) -> Room {
        let mut guard = self.state();
        let state = &mut *guard;
        let queue = state.peers.get_mut(&peer).filter(|queue| queue.connection == connection);
        let (Some(queue), false) = (queue, batch.is_empty()) else {
            batch.clear();
            return Room::Left;
        };
        if queue.messages.is_empty() {
            state.turns.push_back(peer);
        }
        queue.bytes += batch.iter().map(size).sum::<usize>();
        queue.messages.extend(batch.drain(..));
        let room = if queue.is_full(self.bounds) { Room::Full } else { Room::Left };
        drop(guard);
        self.arrived.notify_one();
        room
    }

    /// Resolves when there is capacity again after [`Room::Full`].
    pub(super) fn poll_room(&self, peer: PeerId, connection: u64, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        match state.peers.get_mut(&peer).filter(|queue| queue.connection == connection) {
            Some(queue) if !queue.has_room(self.bounds) => {
                queue.reader = Some(context.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Next message, of the peer whose turn it is; `None` once closed.
    pub(super) async fn next(&self) -> Option<Incoming> {
        loop {
            if let Poll::Ready(next) = self.take() {
                return next;
            }
            let mut arrived = pin!(self.arrived.notified());
            arrived.as_mut().enable();
            // A message that arrived before this waiter was registered woke another one, or none.
            if let Poll::Ready(next) = self.take() {
                return next;
            }
            arrived.await;
        }
    }

    fn take(&self) -> Poll<Option<Incoming>> {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.closed {
            return Poll::Ready(None);
        }
        let Some(peer) = state.turns.pop_front() else { return Poll::Pending };
        let Some(queue) = state.peers.get_mut(&peer) else { return Poll::Pending };
        let Some(message) = queue.messages.pop_front() else { return Poll::Pending };
        queue.bytes -= size(&message);
        let reader = if queue.has_room(self.bounds) { queue.reader.take() } else { None };
        if !queue.messages.is_empty() {
            state.turns.push_back(peer);
        }
        let more = !state.turns.is_empty();
        drop(guard);
        if more {
            // Others may wait, and a batch of messages woke one of them only.
            self.arrived.notify_one();
        }
        if let Some(reader) = reader {
            reader.wake();
        }
        Poll::Ready(Some(message))
    }

    /// Drops the messages of `peer`.
    pub(super) fn forget(&self, peer: PeerId) {
        let mut state = self.state();
        state.turns.retain(|other| *other != peer);
        let forgotten = state.peers.remove(&peer);
        drop(state);
        wake(forgotten);
    }

    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.turns.clear();
        let forgotten = std::mem::take(&mut state.peers);
        drop(state);
        wake(forgotten.into_values());
        self.arrived.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

fn wake(queues: impl IntoIterator<Item = Queue>) {
    queues.into_iter().filter_map(|queue| queue.reader).for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use orch_core::transport::Channel;

    use super::*;

    const BOUNDS: Bounds = Bounds { messages: 4, bytes: 1000 };

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    fn messages(from: u8, count: usize, bytes: usize) -> Vec<Incoming> {
        let message = || Incoming {
            from: peer(from),
            channel: Channel(0),
            message: Bytes::from(vec![0; bytes]),
            reply: None,
        };
        std::iter::repeat_with(message).take(count).collect()
    }

    fn inbox() -> Inbox {
        let inbox = Inbox::new(BOUNDS);
        inbox.open(peer(1), 1);
        inbox.open(peer(2), 2);
        inbox
    }

    fn next(inbox: &Inbox) -> PeerId {
        inbox.next().now_or_never().flatten().unwrap().from
    }

    #[test]
    fn peers_take_turns() {
        let inbox = inbox();
        inbox.push(peer(1), 1, &mut messages(1, 3, 0));
        inbox.push(peer(2), 2, &mut messages(2, 2, 0));
        let order = [1, 2, 1, 2, 1].map(peer);
        assert_eq!([(); 5].map(|()| next(&inbox)), order);
        assert!(inbox.next().now_or_never().is_none());
    }

    #[test]
    fn a_full_queue_stops_its_reader_until_half_of_it_is_taken() {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let inbox = inbox();
        assert_eq!(inbox.push(peer(1), 1, &mut messages(1, 3, 0)), Room::Left);
        assert_eq!(inbox.push(peer(1), 1, &mut messages(1, 1, 0)), Room::Full);
        assert_eq!(inbox.push(peer(2), 2, &mut messages(2, 1, 1000)), Room::Full);
        next(&inbox);
        assert!(inbox.poll_room(peer(1), 1, &mut context).is_pending());
        next(&inbox);
        assert!(inbox.poll_room(peer(2), 2, &mut context).is_ready());
        next(&inbox);
        assert!(inbox.poll_room(peer(1), 1, &mut context).is_ready());
    }

    #[test]
    fn a_replaced_connection_adds_nothing() {
        let inbox = inbox();
        inbox.open(peer(1), 3);
        inbox.push(peer(1), 1, &mut messages(1, 1, 0));
        assert!(inbox.next().now_or_never().is_none());
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(inbox.poll_room(peer(1), 1, &mut context).is_ready(), "its reader has nothing to wait for");
    }

    #[test]
    fn what_is_forgotten_or_closed_is_not_delivered() {
        let inbox = inbox();
        inbox.push(peer(1), 1, &mut messages(1, 2, 0));
        inbox.push(peer(2), 2, &mut messages(2, 1, 0));
        inbox.forget(peer(1));
        assert_eq!(next(&inbox), peer(2));
        inbox.close();
        assert!(matches!(inbox.next().now_or_never(), Some(None)));
    }
}
