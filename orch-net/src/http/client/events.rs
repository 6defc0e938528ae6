//! Following events through disconnects.

use std::collections::VecDeque;

use orch_base::backoff::Backoff;
use orch_core::{engine::Event, store::Revision};

use super::{
    error::ClientError,
    json_client::{Call, JsonClient},
    lines::LineStream,
};
use crate::http::{
    sse::{Frame, Frames},
    wire::{EventInfo, ProblemInfo},
};

/// Start of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventStart {
    /// With what happens next.
    Now,
    /// After everything of a revision.
    After(Revision),
    /// After an event that was read before: its [`Positioned::position`].
    Position(String),
}

/// An event and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Positioned {
    /// For [`EventStart::Position`], when this event was dealt with. Opaque.
    pub position: String,
    /// The event.
    pub event: Event,
}

/// Events in order. When the connection breaks it is opened again, and goes on after the last event that was
/// given, without a gap; a repetition is possible only when the server was started again meanwhile. Dropping
/// it ends the subscription.
#[derive(Debug)]
pub struct EventSubscription {
    client: JsonClient,
    start: EventStart,
    lines: Option<LineStream>,
    frames: Frames,
    ready: VecDeque<Frame>,
    backoff: Backoff,
    over: bool,
}

impl EventSubscription {
    pub(super) fn new(client: JsonClient, start: EventStart) -> Self {
        let backoff = client.timeouts.backoff();
        Self {
            client,
            start,
            lines: None,
            frames: Frames::default(),
            ready: VecDeque::new(),
            backoff,
            over: false,
        }
    }

    /// Opens the connection, once. Events from now on are those after this call.
    pub(super) async fn connect(&mut self) -> Result<(), ClientError> {
        let mut call = Call::get("/api/v1/events");
        match &self.start {
            EventStart::Now => {}
            EventStart::After(revision) => call = Call::get(format!("/api/v1/events?from={revision}")),
            EventStart::Position(position) => call = call.header("last-event-id", position.clone()),
        }
        let timeouts = &self.client.timeouts;
        let response = self.client.open(&call, timeouts.request).await?;
        self.lines = Some(LineStream::new(response, timeouts.idle));
        self.frames = Frames::default();
        // The first frame says where the stream starts, so that not even `Now` is lost with the connection.
        let first = self.read().await?;
        self.ready.extend(first);
        self.backoff.reset();
        Ok(())
    }

    /// The next event; waits for it, and for the server when it is away. `None` after an error. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Problem`] with the code `events_compacted` when events were missed that are no longer
    /// kept: list what there is, then subscribe anew. Other problems that trying again does not mend, such as
    /// a token that is refused.
    pub async fn next(&mut self) -> Option<Result<Positioned, ClientError>> {
        while !self.over {
            let step = match self.ready.pop_front() {
                Some(frame) => self.take(frame),
                None => self.advance().await.map(|()| None),
            };
            match step {
                Ok(None) => {}
                Ok(Some(event)) => return Some(Ok(event)),
                Err(error) if error.is_retryable() => {
                    tracing::debug!(%error, "events broke off; trying again");
                    self.lines = None;
                    tokio::time::sleep(self.backoff.next_delay()).await;
                }
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// The events as a stream.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = Result<Positioned, ClientError>> + Send {
        futures_util::stream::unfold(self, async |mut events| Some((events.next().await?, events)))
    }

    async fn advance(&mut self) -> Result<(), ClientError> {
        if self.lines.is_none() {
            return self.connect().await;
        }
        let frame = self.read().await?;
        self.ready.extend(frame);
        Ok(())
    }

    /// The next frame.
    async fn read(&mut self) -> Result<Option<Frame>, ClientError> {
        let Some(lines) = &mut self.lines else { return Ok(None) };
        loop {
            match lines.next().await? {
                None => return Err(ClientError::Unreachable("the server ended the stream".into())),
                Some(line) => {
                    if let Some(frame) = self.frames.push(&line) {
                        return Ok(Some(frame));
                    }
                }
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<Option<Positioned>, ClientError> {
        if frame.event == "problem" {
            let problem: ProblemInfo = parse(&frame.data)?;
            return Err(ClientError::Problem(Box::new(problem)));
        }
        let position = frame.id.unwrap_or_default();
        self.start = EventStart::Position(position.clone());
        if frame.data.is_empty() {
            return Ok(None);
        }
        let info: EventInfo = parse(&frame.data)?;
        Ok(Some(Positioned { position, event: info.into() }))
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, ClientError> {
    serde_json::from_str(json).map_err(|error| ClientError::Protocol(error.to_string()))
}
