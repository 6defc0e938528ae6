//! Driver of a connection, one task each: it writes queued frames, reads incoming ones, and detects an idle
//! peer.

use std::{
    collections::VecDeque,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use orch_core::transport::{Channel, Incoming};
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _},
    time::{Instant, Interval, MissedTickBehavior},
};
use tracing::{debug, warn};

use super::{
    frame::{Decoded, Frame, FrameError, Kind, decode},
    greeting::Farewell,
    handshake::Stream,
    inbox::Room,
    link::Link,
    shared::Shared,
};

/// Bytes that are written at a time. The TLS library takes as much before it writes to the socket.
const WRITE_BYTES: usize = 64 << 10;
/// Size of a body from which it is written in place, without a copy.
const LARGE_BYTES: usize = 16 << 10;
/// Size of the read buffer, in bytes. It is handed out in slices, and a new one is allocated when it is used
/// up.
const READ_BYTES: usize = 64 << 10;
/// Size of one TLS record, in bytes. With less free space than that a read is not worth its cost.
const RECORD_BYTES: usize = 16 << 10;
/// Number of messages that are handed over at a time.
const BATCH_MESSAGES: usize = 256;
/// Number of writes and reads before the task yields.
const ROUNDS: usize = 16;
/// Number of pings per idle timeout.
const PINGS: u32 = 3;
/// Timeout of the last frame of a connection.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(200);

/// A connection that both sides agreed on.
pub(super) struct Opened {
    pub(super) stream: Stream,
    /// Bytes received after the greeting.
    pub(super) received: BytesMut,
    /// Frame to send before all others.
    pub(super) first: Option<Frame>,
}

/// Reason for which a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    /// This side closes it.
    #[error("{0}")]
    Told(String),
    #[error("{0}")]
    Peer(&'static str),
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    #[error("the peer sent a {0}")]
    Frame(#[from] FrameError),
    #[error("the peer sent a {0:?} frame in the middle of a connection")]
    Misplaced(Kind),
}

/// Starts the driver of the connection, as long as the transport is open.
pub(super) fn start(shared: &Arc<Shared>, opened: Opened, link: Arc<Link>) {
    let ending = Ending { shared: Arc::clone(shared), link };
    shared.tasks.spawn_connection(run(ending, opened));
}

/// Guard that ends the link of a connection without a driver, also when the driver panics.
struct Ending {
    shared: Arc<Shared>,
    link: Arc<Link>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.peers.ended(&self.link, "its task was cut");
    }
}

async fn run(ending: Ending, opened: Opened) {
    let Ending { shared, link } = &ending;
    let mut connection = Connection::new(shared, Arc::clone(link), opened);
    let end = std::future::poll_fn(|context| connection.poll(context)).await;
    shared.peers.ended(link, &end.to_string());
    let code = match &end {
        End::Told(_) => Some(Farewell::Closing),
        End::Frame(_) | End::Misplaced(_) => {
            warn!(peer = %link.peer(), reason = %end, "a peer violated the protocol");
            Some(Farewell::Protocol)
        }
        End::Peer(_) | End::Broken(_) | End::Silent(_) => None,
    };
    if tokio::time::timeout(FAREWELL_TIMEOUT, connection.farewell(code)).await.is_err() {
        debug!(peer = %link.peer(), "a connection was cut, the peer reads nothing");
    }
}

struct Connection<'a> {
    shared: &'a Shared,
    link: Arc<Link>,
    stream: Stream,
    writing: Writing,
    must_flush: bool,
    received: BytesMut,
    /// Decoded messages to hand over.
    batch: Vec<Incoming>,
    /// Whether reading is paused until messages are taken.
    blocked: bool,
    pulse: Pulse,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Shared, link: Arc<Link>, opened: Opened) -> Self {
        let Opened { stream, received, first } = opened;
        Self {
            shared,
            link,
            stream,
            writing: Writing { frames: first.into_iter().collect(), ..Writing::default() },
            must_flush: false,
            received,
            batch: Vec::new(),
            blocked: false,
            pulse: Pulse::new(shared.peers.config().idle_timeout),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        if self.link.watch(context.waker()) {
            return Poll::Ready(End::Told(self.link.reason()));
        }
        if let Poll::Ready(end) = self.pulse.poll(self.blocked, context) {
            return Poll::Ready(end);
        }
        for _ in 0..ROUNDS {
            let written = self.poll_write(context);
            let read = self.poll_read(context);
            match (written, read) {
                (Poll::Ready(Err(error)), _) => return Poll::Ready(error.into()),
                (_, Poll::Ready(Err(end))) => return Poll::Ready(end),
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
                (Poll::Ready(Ok(())), _) | (_, Poll::Ready(Ok(()))) => {}
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writing.is_empty() {
            self.writing.fill(&self.link, &mut self.pulse);
        }
        let stream = Pin::new(&mut self.stream);
        if !self.writing.is_empty() {
            let written = ready!(stream.poll_write(context, self.writing.chunk()))?;
            self.writing.advance(written);
            self.must_flush = true;
            return Poll::Ready(Ok(()));
        }
        if self.must_flush {
            ready!(stream.poll_flush(context))?;
            self.must_flush = false;
        }
        Poll::Pending
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        let (peer, connection) = (self.link.peer(), self.link.origin.connection);
        if self.blocked {
            ready!(self.shared.peers.inbox.poll_room(peer, connection, context));
            self.blocked = false;
            self.pulse.heard();
        }
        let missing = self.decode_some()?;
        if !self.batch.is_empty() {
            self.blocked = self.shared.peers.inbox.push(peer, connection, &mut self.batch) == Room::Full;
        }
        let Some(missing) = missing.filter(|_| !self.blocked) else { return Poll::Ready(Ok(())) };
        let spare = self.received.capacity() - self.received.len();
        if spare < missing.max(RECORD_BYTES) {
            self.received.reserve(missing.max(READ_BYTES));
        }
        match ready!(pin!(self.stream.read_buf(&mut self.received)).poll(context))? {
            0 => Poll::Ready(Err(End::Peer("the peer closed the connection"))),
            _ => {
                self.pulse.heard();
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Decodes complete frames. Returns how many bytes of the next one are missing; `None` when the batch is
    /// full before that is known.
    fn decode_some(&mut self) -> Result<Option<usize>, End> {
        let (mut messages, mut bytes, mut missing) = (0, 0, None);
        let max = self.shared.peers.config().message_bytes_max;
        for _ in 0..BATCH_MESSAGES {
            let frame = match decode(&mut self.received, max)? {
                Decoded::Frame(frame) => frame,
                Decoded::Missing(count) => {
                    missing = Some(count);
                    break;
                }
            };
            if frame.kind.has_channel() {
                messages += 1;
                bytes += frame.body.len() as u64;
            }
            self.take(frame)?;
        }
        self.link.counters.received(messages, bytes);
        Ok(missing)
    }

    fn take(&mut self, frame: Frame) -> Result<(), End> {
        let Frame { kind, channel, id, body } = frame;
        let channel = Channel(channel);
        match kind {
            Kind::Message | Kind::Request => {
                let reply = (kind == Kind::Request).then(|| self.link.reply(channel, id));
                self.batch.push(Incoming { from: self.link.peer(), channel, message: body, reply });
            }
            Kind::Answer => self.link.answered(id, body),
            Kind::Ping => self.pulse.pinged(id),
            Kind::Pong => {
                if let Some(round_trip) = self.pulse.ponged(id) {
                    self.link.measured(round_trip);
                }
            }
            Kind::Hello | Kind::Welcome => return Err(End::Misplaced(kind)),
            Kind::Close => return Err(End::Peer(Farewell::explain(id))),
        }
        Ok(())
    }

    /// Sends the reason, unless another frame is half written, and closes.
    async fn farewell(&mut self, code: Option<Farewell>) {
        let closing = async {
            if let Some(code) = code.filter(|_| self.writing.is_empty()) {
                self.stream.write_all(&code.frame().header()).await?;
            }
            self.stream.shutdown().await
        };
        if let Err(error) = closing.await {
            debug!(peer = %self.link.peer(), %error, "a connection did not close cleanly");
        }
    }
}

/// Frames that are being written to the socket.
#[derive(Default)]
struct Writing {
    bytes: Vec<u8>,
    /// Number of bytes that are written.
    written: usize,
    /// Body that follows the bytes.
    large: Bytes,
    /// Frames that follow the large body.
    frames: VecDeque<Frame>,
}

impl Writing {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len() && self.large.is_empty()
    }

    fn chunk(&self) -> &[u8] {
        match &self.bytes[self.written..] {
            [] => &self.large,
            bytes => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self.bytes.len() - self.written {
            0 => self.large.advance(count),
            _ => self.written += count,
        }
    }

    /// Fetches the next frames, if there are any.
    fn fill(&mut self, link: &Link, pulse: &mut Pulse) {
        self.bytes.clear();
        self.written = 0;
        // The greeting is the first of all frames, and is the only one before the queue is drained.
        if self.frames.is_empty() {
            pulse.due(|frame| self.bytes.extend_from_slice(&frame.header()));
            link.drain(&mut self.frames, WRITE_BYTES);
        }
        let (mut messages, mut bytes) = (0, 0);
        while let Some(frame) = self.frames.pop_front() {
            self.bytes.extend_from_slice(&frame.header());
            if frame.kind.has_channel() {
                messages += 1;
                bytes += frame.body.len() as u64;
            }
            if frame.body.len() >= LARGE_BYTES {
                self.large = frame.body;
                break;
            }
            self.bytes.extend_from_slice(&frame.body);
        }
        if messages > 0 {
            link.counters.sent(messages, bytes);
        }
    }
}

/// Keep-alive of the connection, and detection of a dead peer.
struct Pulse {
    ticks: Interval,
    idle_timeout: Duration,
    /// Ticks since the last received bytes.
    silent: u32,
    pings: u64,
    ping_due: bool,
    pinged_at: Option<Instant>,
    /// A newer ping replaces one that is not answered yet, so that pings cannot pile up.
    pong_due: Option<u64>,
}

impl Pulse {
    fn new(idle_timeout: Duration) -> Self {
        let period = idle_timeout / PINGS;
        let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            ticks,
            idle_timeout,
            silent: 0,
            pings: 0,
            // The first one measures the round trip.
            ping_due: true,
            pinged_at: None,
            pong_due: None,
        }
    }

    /// Advances the timer. While this side does not read, a missing pong is no evidence.
    fn poll(&mut self, blocked: bool, context: &mut Context<'_>) -> Poll<End> {
        while self.ticks.poll_tick(context).is_ready() {
            self.ping_due = true;
            self.silent = if blocked { 0 } else { self.silent + 1 };
            if self.silent > PINGS {
                return Poll::Ready(End::Silent(self.idle_timeout));
            }
        }
        Poll::Pending
    }

    fn heard(&mut self) {
        self.silent = 0;
    }

    fn pinged(&mut self, id: u64) {
        self.pong_due = Some(id);
    }

    fn ponged(&mut self, id: u64) -> Option<Duration> {
        self.pinged_at.take_if(|_| id == self.pings).map(|at| at.elapsed())
    }

    /// Sends the pings and pongs that are due.
    fn due(&mut self, mut send: impl FnMut(Frame)) {
        if let Some(id) = self.pong_due.take() {
            send(Frame::control(Kind::Pong, id));
        }
        if std::mem::take(&mut self.ping_due) {
            self.pings += 1;
            self.pinged_at = Some(Instant::now());
            send(Frame::control(Kind::Ping, self.pings));
        }
    }
}
