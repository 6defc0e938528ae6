//! Events as server-sent events that can be resumed without a gap or a repetition.
//!
//! An event's id is `<revision>.<number>.<epoch>`: the position of the decision, how many events this
//! server's life had up to and with this one, and which life that was. Within one life the number alone says
//! where to go on, although several events share a revision. In another life (the server was restarted, or it
//! is another member's) the number means nothing: the stream goes on before the first event of the revision,
//! which may repeat some of that revision and skips nothing, or answers 410 where these events are not kept.

use std::{fmt, str::FromStr, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use orch_core::{Error, engine::EventStream, store::Revision};

use super::{app::App, problems::kinds};
use crate::http::shell::{Params, Problem, value};
use crate::http::{
    sse::{Frame, KEEP_ALIVE},
    wire::EventInfo,
};

/// Longest silence of a stream.
pub(super) const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: &str = "last-event-id";

pub(super) async fn follow(
    State(app): State<App>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, Problem> {
    let mut from = None;
    params.each(|name, text| match name {
        "from" => {
            from = Some(value::<From>(name, &text)?);
            Ok(true)
        }
        _ => Ok(false),
    })?;
    // A client that reconnects repeats its first address, and adds how far it came.
    if let Some(last) = headers.get(LAST_EVENT_ID) {
        from = Some(value(LAST_EVENT_ID, &String::from_utf8_lossy(last.as_bytes()))?);
    }
    let feed = Feed::open(app, from)?;
    let body = Body::from_stream(stream::unfold(feed, Feed::next));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, body).into_response())
}

/// Start of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// After everything of a revision.
    Revision(Revision),
    /// After an event.
    Event(Position),
}

/// An event's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    revision: Revision,
    number: u64,
    epoch: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:x}", self.revision, self.number, self.epoch)
    }
}

impl FromStr for From {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PROBLEM: &str = "it must be a revision or the id of an event";
        let number = |text: &str| text.parse::<u64>().map_err(|_| PROBLEM);
        let parts: Vec<&str> = text.splitn(4, '.').collect();
        match parts[..] {
            [revision] => Ok(Self::Revision(Revision(number(revision)?))),
            [revision, position, epoch] => Ok(Self::Event(Position {
                revision: Revision(number(revision)?),
                number: number(position)?,
                epoch: u64::from_str_radix(epoch, 16).map_err(|_| PROBLEM)?,
            })),
            _ => Err(PROBLEM),
        }
    }
}

struct Feed {
    app: App,
    events: EventStream,
    revision: Revision,
    begun: bool,
    ended: bool,
}

impl Feed {
    fn open(app: App, from: Option<From>) -> Result<Self, Problem> {
        let orchestrator = app.embedded.orchestrator();
        // Read first: an id may name an earlier revision than it could, never a later one.
        let now = orchestrator.status().revision;
        let (revision, events) = match from {
            None => (now, orchestrator.events()),
            Some(From::Revision(revision)) => (revision, orchestrator.events_from(revision)?),
            Some(From::Event(at)) if at.epoch == app.epoch => {
                (at.revision, orchestrator.events_at(at.number)?)
            }
            Some(From::Event(at)) => {
                let before = Revision(at.revision.0.saturating_sub(1));
                (before, orchestrator.events_from(before)?)
            }
        };
        Ok(Self { app, events, revision, begun: false, ended: false })
    }

    fn position(&self) -> String {
        let Self { revision, app, .. } = self;
        Position { revision: *revision, number: self.events.position(), epoch: app.epoch }.to_string()
    }

    async fn next(mut self) -> Option<(Result<bytes::Bytes, std::convert::Infallible>, Self)> {
        if self.ended {
            return None;
        }
        if !self.begun {
            // Without data: tells where to go on should the connection break before the first event.
            self.begun = true;
            let start = Frame { id: Some(self.position()), ..Frame::default() };
            return Some((Ok(start.encode()), self));
        }
        let next = tokio::select! {
            next = self.events.next() => next?,
            () = tokio::time::sleep(KEEP_ALIVE_EVERY) => return Some((Ok(KEEP_ALIVE), self)),
            () = self.app.closed() => return None,
        };
        let frame = match next {
            Ok(event) => {
                self.revision = event.revision;
                let info = EventInfo::from(event);
                Frame { id: Some(self.position()), event: info.name().into(), data: json(&info) }
            }
            Err(error) => {
                self.ended = true;
                Frame { id: None, event: "problem".into(), data: json(&slow(error).info()) }
            }
        };
        Some((Ok(frame.encode()), self))
    }
}

/// The problem of a reader that missed events.
pub(super) fn slow(error: Error) -> Problem {
    match error {
        Error::EventsCompacted { .. } => {
            Problem::new(kinds::EVENTS_COMPACTED, "events were missed: they came faster than they were read")
        }
        other => other.into(),
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain data has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_the_wire() {
        let position = Position { revision: Revision(7), number: u64::MAX, epoch: 0xfeed_0000_0000_beef };
        assert_eq!(position.to_string().parse(), Ok(From::Event(position)));
        assert_eq!("7".parse(), Ok(From::Revision(Revision(7))));
        for bad in ["", "x", "1.2", "1.2.3.4", "1.2.zz", "-1"] {
            assert!(bad.parse::<From>().is_err(), "{bad}");
        }
    }
}
