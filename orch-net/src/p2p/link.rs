//! Link to a connection for the rest of the transport: the queue of outgoing frames, and the pending
//! requests.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use orch_core::transport::{Channel, PeerId, Reply, TransportError};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;
use tracing::debug;

use super::{
    frame::{Frame, Kind},
    queues::{Bounds, Queues},
    status::Counters,
};

/// Properties of a connection at its start.
pub(super) struct Origin {
    /// Id of the connection, the same on both sides.
    pub(super) connection: u64,
    pub(super) peer: PeerId,
    pub(super) remote: SocketAddr,
    /// Whether this side dialled.
    pub(super) dialled: bool,
    /// Maximum size of a message that both sides accept, in bytes.
    pub(super) message_bytes_max: usize,
}

pub(super) struct Link {
    pub(super) origin: Origin,
    pub(super) since: SystemTime,
    pub(super) counters: Arc<Counters>,
    requests_max: usize,
    next_request: AtomicU64,
    /// Round-trip time in microseconds; 0 while unknown.
    round_trip: AtomicU64,
    /// Pending requests; taken away when the connection ends.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Bytes>>>>,
    outgoing: Mutex<Outgoing>,
}

struct Outgoing {
    queues: Queues,
    /// Reason of the end, after which no frame is accepted.
    ended: Option<String>,
    /// Task that writes. It sleeps until there is something to write where `idle` is set.
    writer: Option<Waker>,
    idle: bool,
}

impl Link {
    pub(super) fn new(origin: Origin, bounds: Bounds, requests_max: usize, counters: Arc<Counters>) -> Self {
        let outgoing = Outgoing { queues: Queues::new(bounds), ended: None, writer: None, idle: false };
        Self {
            origin,
            since: SystemTime::now(),
            counters,
            requests_max,
            next_request: AtomicU64::new(1),
            round_trip: AtomicU64::new(0),
            waiting: Mutex::new(Some(HashMap::new())),
            outgoing: Mutex::new(outgoing),
        }
    }

    pub(super) fn peer(&self) -> PeerId {
        self.origin.peer
    }

    pub(super) fn send(&self, channel: Channel, message: Bytes) -> Result<(), TransportError> {
        self.push(channel, Kind::Message, 0, message)
    }

    /// Sends a request. It is forgotten when the returned value is dropped.
    pub(super) fn ask(self: &Arc<Self>, channel: Channel, message: Bytes) -> Result<Asked, TransportError> {
        let (answer, answered) = oneshot::channel();
        let id = self.next_request.fetch_add(1, Relaxed);
        match &mut *self.waiting() {
            None => return Err(self.failed()),
            Some(waiting) if waiting.len() >= self.requests_max => {
                return Err(TransportError::Busy(self.peer()));
            }
            Some(waiting) => drop(waiting.insert(id, answer)),
        }
        let asked = Asked { link: Arc::clone(self), id, answered };
        self.push(channel, Kind::Request, id, message)?;
        Ok(asked)
    }

    /// Reply to the request `id` of the peer.
    pub(super) fn reply(self: &Arc<Self>, channel: Channel, id: u64) -> Reply {
        let link = Arc::clone(self);
        Reply::new(move |answer| {
            if let Err(error) = link.push(channel, Kind::Answer, id, answer) {
                debug!(%error, "a response was dropped");
            }
        })
    }

    /// Delivers a response. One that nobody waits for any more is dropped.
    pub(super) fn answered(&self, id: u64, answer: Bytes) {
        let asked = self.waiting().as_mut().and_then(|waiting| waiting.remove(&id));
        if let Some(asked) = asked {
            // The request was forgotten just now.
            let _ = asked.send(answer);
        }
    }

    /// Moves about `bytes` of the next frames to `batch`. Where there are none, the writer is woken when that
    /// changes.
    pub(super) fn drain(&self, batch: &mut impl Extend<Frame>, bytes: usize) {
        let mut outgoing = self.outgoing();
        outgoing.idle = outgoing.queues.is_empty();
        let mut taken = 0;
        while taken < bytes
            && let Some(frame) = outgoing.queues.pop()
        {
            taken += frame.size();
            batch.extend([frame]);
        }
    }

    /// Registers the task to wake when there is something to write, or the connection is to end. Returns
    /// whether it is to end already.
    pub(super) fn watch(&self, waker: &Waker) -> bool {
        let mut outgoing = self.outgoing();
        if !outgoing.writer.as_ref().is_some_and(|writer| writer.will_wake(waker)) {
            outgoing.writer = Some(waker.clone());
        }
        outgoing.ended.is_some()
    }

    /// Ends the connection for all its users. The first reason counts.
    pub(super) fn end(&self, reason: &str) {
        let writer = {
            let mut outgoing = self.outgoing();
            outgoing.ended.get_or_insert_with(|| reason.to_owned());
            outgoing.queues.clear();
            outgoing.writer.clone()
        };
        // Pending requests fail because their senders are dropped.
        drop(self.waiting().take());
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Reason of the end.
    pub(super) fn reason(&self) -> String {
        self.outgoing().ended.clone().unwrap_or_else(|| "it ended".to_owned())
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        match self.round_trip.load(Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    pub(super) fn measured(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.round_trip.store(micros.max(1), Relaxed);
    }

    fn push(&self, channel: Channel, kind: Kind, id: u64, body: Bytes) -> Result<(), TransportError> {
        let (size, max) = (body.len(), self.origin.message_bytes_max);
        if size > max {
            return Err(TransportError::TooLarge { size, max });
        }
        let writer = {
            let mut outgoing = self.outgoing();
            if outgoing.ended.is_some() {
                drop(outgoing);
                return Err(self.failed());
            }
            if outgoing.queues.push(channel, Frame { kind, channel: channel.0, id, body }).is_err() {
                drop(outgoing);
                self.counters.refused(1);
                return Err(TransportError::Busy(self.peer()));
            }
            match std::mem::take(&mut outgoing.idle) {
                true => outgoing.writer.clone(),
                false => None,
            }
        };
        if let Some(writer) = writer {
            writer.wake();
        }
        Ok(())
    }

    fn failed(&self) -> TransportError {
        TransportError::Connection { peer: self.peer(), reason: self.reason() }
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock()
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Bytes>>>> {
        self.waiting.lock()
    }
}

/// A pending request.
pub(super) struct Asked {
    link: Arc<Link>,
    id: u64,
    answered: oneshot::Receiver<Bytes>,
}

impl Asked {
    pub(super) async fn answer(mut self, timeout: Duration) -> Result<Bytes, TransportError> {
        match tokio::time::timeout(timeout, &mut self.answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.link.failed()),
            Err(_) => Err(TransportError::Timeout(self.link.peer())),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(waiting) = &mut *self.link.waiting() {
            waiting.remove(&self.id);
        }
    }
}
