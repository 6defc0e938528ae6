//! Lines of an answer that comes bit by bit.

use std::{collections::VecDeque, time::Duration};

use axum::http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{error::ClientError, json_client::unreachable};
use crate::http::sse::Lines;

/// A piece of output of half a mebibyte, four characters a byte, with room to spare.
const LINE_BYTES_MAX: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct LineStream {
    body: Incoming,
    lines: Lines,
    ready: VecDeque<String>,
    idle: Duration,
}

impl LineStream {
    pub(super) fn new(response: Response<Incoming>, idle: Duration) -> Self {
        let lines = Lines::new(LINE_BYTES_MAX);
        Self { body: response.into_body(), lines, ready: VecDeque::new(), idle }
    }

    /// The next line; `None` when the server has said everything. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let frame = tokio::time::timeout(self.idle, self.body.frame()).await;
            match frame.map_err(|_| ClientError::Timeout(self.idle))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(unreachable(&error)),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    let lines = self.lines.push(&data);
                    self.ready.extend(lines.map_err(|error| ClientError::Protocol(error.to_string()))?);
                }
            }
        }
    }
}
