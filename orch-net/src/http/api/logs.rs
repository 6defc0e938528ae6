//! A task's output. A stream that ends well has shown everything; one that is cut (the server shuts down, the
//! store fails) ends without the last chunk of its HTTP body, so that a reader can tell.

use std::io;

use axum::{
    body::Body,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use orch_core::{
    engine::{OutputChunk, OutputRange, OutputReader},
    model::{TaskId, Timestamp},
};

use super::{app::App, events::KEEP_ALIVE_EVERY, problems::kinds};
use crate::http::shell::{Id, Params, Problem, value};

/// The most lines that are counted from the end.
const TAIL_MAX: u32 = 100_000;

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// The bytes as they were written, both streams together. Where some could not be kept, a line at the end
    /// says so.
    Text,
    /// A line of JSON for each piece; empty lines keep an idle connection alive.
    Json,
}

pub(super) async fn read(
    State(app): State<App>,
    Id(task): Id<TaskId>,
    params: Params,
) -> Result<Response, Problem> {
    let (mut range, mut format) = (OutputRange::default(), Format::Text);
    params.each(|name, text| {
        match (name, text.as_str()) {
            ("follow", text) => range.follow = value(name, text)?,
            ("attempt", text) => range.attempt = Some(value(name, text)?),
            ("tail", text) => {
                let lines = value(name, text)?;
                if lines > TAIL_MAX {
                    let detail = format!("tail must be from 0 to {TAIL_MAX}");
                    return Err(Problem::new(kinds::MALFORMED, detail).at("tail"));
                }
                range.tail = Some(lines);
            }
            ("since", text) => range.since = Some(Timestamp::from_millis(value(name, text)?)),
            ("timestamps", text) => range.times = value(name, text)?,
            ("format", "text") => format = Format::Text,
            ("format", "json") => format = Format::Json,
            ("format", _) => {
                return Err(Problem::new(kinds::MALFORMED, "format must be text or json").at("format"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if range.times && format == Format::Text {
        let detail = "the text is the bytes alone; times need format=json";
        return Err(Problem::new(kinds::MALFORMED, detail).at("timestamps"));
    }
    let reader = app.embedded.orchestrator().logs_in(task, range).await?;
    let body = Body::from_stream(stream::try_unfold(Output { app, reader, format }, Output::next));
    let media = match format {
        Format::Text => "text/plain; charset=utf-8",
        Format::Json => "application/x-ndjson",
    };
    Ok(([(CONTENT_TYPE, media)], body).into_response())
}

struct Output {
    app: App,
    reader: OutputReader,
    format: Format,
}

impl Output {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        loop {
            let next = tokio::select! {
                next = self.reader.next() => next,
                () = tokio::time::sleep(KEEP_ALIVE_EVERY) => match self.format {
                    Format::Text => continue,
                    Format::Json => return Ok(Some((Bytes::from_static(b"\n"), self))),
                },
                () = self.app.closed() => return Err(io::ErrorKind::ConnectionAborted.into()),
            };
            return match next {
                None => Ok(None),
                Some(Ok(chunk)) => Ok(Some((self.encode(chunk), self))),
                Some(Err(error)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "output could not be read");
                    Err(io::ErrorKind::ConnectionAborted.into())
                }
            };
        }
    }

    fn encode(&self, chunk: OutputChunk) -> Bytes {
        match self.format {
            Format::Text => chunk.notice().map_or(chunk.data, Bytes::from),
            Format::Json => {
                let mut line = serde_json::to_vec(&chunk).expect("plain data has a JSON form");
                line.push(b'\n');
                line.into()
            }
        }
    }
}
