//! Hub that connects all members: routing, faults, and the queue of delayed messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

use super::{Faults, InProcessConfig};
use crate::transport::{Channel, Incoming, PeerId, Reply, TransportError};

/// Maximum number of messages in flight; further ones are lost.
const DELAYED_MAX: usize = 65_536;

pub(super) struct Hub {
    config: InProcessConfig,
    state: Mutex<State>,
    earlier: Notify,
}

pub(super) struct State {
    pub(super) faults: Faults,
    pub(super) blocked: BTreeSet<(PeerId, PeerId)>,
    inboxes: BTreeMap<PeerId, mpsc::Sender<Incoming>>,
    random: u64,
    /// Delayed messages in order of arrival.
    delayed: BTreeMap<(Instant, u64), Delayed>,
    /// Last arrival and number of delayed messages, by stream. Where order is kept, no message may arrive
    /// before them.
    last: BTreeMap<Stream, (Instant, usize)>,
    sent: u64,
    /// Whether a task delivers the delayed messages.
    delivering: bool,
}

/// Messages that keep their order among each other; `None` for responses.
type Stream = (PeerId, PeerId, Option<Channel>);

struct Delayed {
    from: PeerId,
    to: PeerId,
    parcel: Parcel,
}

#[derive(Clone)]
pub(super) enum Parcel {
    Message { channel: Channel, message: Bytes, answer: Option<Answer> },
    Answer { message: Bytes, answer: Answer },
}

impl Parcel {
    fn channel(&self) -> Option<Channel> {
        match self {
            Self::Message { channel, .. } => Some(*channel),
            Self::Answer { .. } => None,
        }
    }
}

/// Waiter for the response to a request. The first copy of a response counts.
#[derive(Clone)]
pub(super) struct Answer(Arc<Mutex<Option<oneshot::Sender<Bytes>>>>);

impl Answer {
    pub(super) fn new(waiting: oneshot::Sender<Bytes>) -> Self {
        Self(Arc::new(Mutex::new(Some(waiting))))
    }

    fn give(&self, message: Bytes) {
        if let Some(waiting) = self.0.lock().take() {
            // The waiter may have given up.
            let _ = waiting.send(message);
        }
    }
}

impl Hub {
    pub(super) fn new(config: InProcessConfig) -> Self {
        let state = State {
            faults: Faults::default(),
            blocked: BTreeSet::new(),
            inboxes: BTreeMap::new(),
            random: config.seed,
            delayed: BTreeMap::new(),
            last: BTreeMap::new(),
            sent: 0,
            delivering: false,
        };
        Self { config, state: Mutex::new(state), earlier: Notify::new() }
    }

    pub(super) fn config(&self) -> &InProcessConfig {
        &self.config
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state())
    }

    pub(super) fn peers(&self) -> Vec<PeerId> {
        self.state().inboxes.keys().copied().collect()
    }

    pub(super) fn join(&self, peer: PeerId, inbox: mpsc::Sender<Incoming>) {
        self.state().inboxes.insert(peer, inbox);
    }

    pub(super) fn leave(&self, peer: PeerId, inbox: &mpsc::Sender<Incoming>) {
        let mut state = self.state();
        if state.inboxes.get(&peer).is_some_and(|current| current.same_channel(inbox)) {
            state.inboxes.remove(&peer);
        }
    }

    /// Accepts one message. A fault that hits it is no error: the sender of a real network would not know.
    pub(super) fn transmit(
        self: &Arc<Self>,
        from: PeerId,
        to: PeerId,
        parcel: &Parcel,
    ) -> Result<(), TransportError> {
        let mut state = self.state();
        if !state.inboxes.contains_key(&to) {
            return Err(TransportError::UnknownPeer(to));
        }
        let Faults { loss_percent, duplicate_percent, .. } = state.faults;
        if state.blocked.contains(&(from, to)) || state.hits(loss_percent) {
            return Ok(());
        }
        let copies = if state.hits(duplicate_percent) { 2 } else { 1 };
        for _ in 0..copies {
            match state.arrival((from, to, parcel.channel()), self.config.ordered) {
                None => self.deliver(&state, from, to, parcel.clone())?,
                Some(at) => self.delay(&mut state, at, Delayed { from, to, parcel: parcel.clone() }),
            }
        }
        Ok(())
    }

    fn deliver(
        self: &Arc<Self>,
        state: &State,
        from: PeerId,
        to: PeerId,
        parcel: Parcel,
    ) -> Result<(), TransportError> {
        let (channel, message, answer) = match parcel {
            Parcel::Message { channel, message, answer } => (channel, message, answer),
            Parcel::Answer { message, answer } => {
                answer.give(message);
                return Ok(());
            }
        };
        let reply = answer.map(|answer| {
            let hub = Arc::clone(self);
            Reply::new(move |message| {
                // Like any response that cannot be sent, it is lost.
                let _ = hub.transmit(to, from, &Parcel::Answer { message, answer });
            })
        });
        let inbox = state.inboxes.get(&to).ok_or(TransportError::UnknownPeer(to))?;
        inbox.try_send(Incoming { from, channel, message, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TransportError::Busy(to),
            mpsc::error::TrySendError::Closed(_) => TransportError::UnknownPeer(to),
        })
    }

    fn delay(self: &Arc<Self>, state: &mut State, at: Instant, delayed: Delayed) {
        if state.delayed.len() >= DELAYED_MAX {
            return;
        }
        let last = state.last.entry((delayed.from, delayed.to, delayed.parcel.channel())).or_insert((at, 0));
        *last = (last.0.max(at), last.1 + 1);
        state.sent += 1;
        state.delayed.insert((at, state.sent), delayed);
        if !std::mem::replace(&mut state.delivering, true) {
            tokio::spawn(Arc::clone(self).deliver_delayed());
        }
        self.earlier.notify_one();
    }

    /// Delivers delayed messages; ends when none is in flight.
    async fn deliver_delayed(self: Arc<Self>) {
        while let Some(due) = self.deliver_due() {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = self.earlier.notified() => {}
            }
        }
    }

    /// Delivers messages that are due; returns the time of the next one.
    fn deliver_due(self: &Arc<Self>) -> Option<Instant> {
        let mut state = self.state();
        while let Some(first) = state.delayed.first_entry() {
            let (due, _) = *first.key();
            if due > Instant::now() {
                return Some(due);
            }
            let Delayed { from, to, parcel } = first.remove();
            let stream = (from, to, parcel.channel());
            if let Some((_, count)) = state.last.get_mut(&stream) {
                *count -= 1;
                if *count == 0 {
                    state.last.remove(&stream);
                }
            }
            // A full queue, or a member that left, loses it, as it would the packet of a real network.
            let _ = self.deliver(&state, from, to, parcel);
        }
        state.delivering = false;
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Arrival time of the next message of the stream; `None` for immediately.
    fn arrival(&mut self, stream: Stream, ordered: bool) -> Option<Instant> {
        let Faults { delay_min, delay_max, reorder_percent, .. } = self.faults;
        let mut delay = delay_min;
        if delay_max > delay_min {
            let span = u64::try_from((delay_max - delay_min).as_nanos()).unwrap_or(u64::MAX);
            delay += std::time::Duration::from_nanos(self.next_random() % span);
        }
        if !ordered && self.hits(reorder_percent) {
            delay += delay_max;
        }
        let before = self.last.get(&stream).filter(|_| ordered).map(|(last, _)| *last);
        match (delay.is_zero(), before) {
            (true, before) => before,
            (false, before) => Some((Instant::now() + delay).max(before.unwrap_or_else(Instant::now))),
        }
    }

    fn hits(&mut self, percent: u8) -> bool {
        percent > 0 && self.next_random() % 100 < u64::from(percent)
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators").
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
