//! [`Limits`]: bounds on what callers may ask of a server.

use std::time::Duration;

use super::error::ServerError;

/// Bounds on what callers may ask of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, streams and long polls included; more are refused.
    pub connections_max: usize,
    /// Bytes of a request's line and headers together; at least 8192.
    pub header_bytes_max: usize,
    /// Time that a caller may take for the TLS handshake, and for the headers of a request. Also ends idle
    /// connections.
    pub header_timeout: Duration,
    /// Bytes of a request's body. Workers may send four times as much: output that is not text takes four
    /// bytes a byte.
    pub body_bytes_max: usize,
    /// Time that a caller may take for a request's body.
    pub body_timeout: Duration,
    /// Time that an answer may take, other than streams and long polls.
    pub request_timeout: Duration,
    /// Time that a caller may leave an answer unread.
    pub write_timeout: Duration,
    /// Time that a shutdown waits for requests that are being answered.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            header_bytes_max: 32 << 10,
            header_timeout: Duration::from_secs(15),
            body_bytes_max: 2 << 20,
            body_timeout: Duration::from_secs(15),
            request_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

impl Limits {
    pub(in crate::http) fn validate(&self) -> Result<(), ServerError> {
        let refuse = |why| Err(ServerError::Limits(why));
        if self.connections_max == 0 || self.body_bytes_max == 0 {
            return refuse("connections_max and body_bytes_max must not be zero");
        }
        if self.header_bytes_max < 8192 {
            return refuse("header_bytes_max must be at least 8192");
        }
        let times = [self.header_timeout, self.body_timeout, self.request_timeout, self.write_timeout];
        if times.iter().any(Duration::is_zero) {
            return refuse("time limits must not be zero");
        }
        match self.body_timeout > self.request_timeout {
            true => refuse("body_timeout must not be longer than request_timeout, which includes it"),
            false => Ok(()),
        }
    }
}
