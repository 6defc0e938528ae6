//! [`ClientConfig`] and [`Timeouts`].

use std::{fmt, time::Duration};

use orch_base::backoff::Backoff;

/// Server to call, as whom, and for how long.
#[derive(Clone)]
pub struct ClientConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT`, perhaps with a path behind it.
    pub base_url: String,
    /// The bearer token; never printed.
    pub token: String,
    /// Certificates in PEM form to trust instead of the public ones.
    pub ca_pem: Option<Vec<u8>>,
    /// Bounds on time.
    pub timeouts: Timeouts,
}

impl ClientConfig {
    /// A client that trusts public certificates, with defaults for the rest.
    pub fn new(base_url: impl Into<String>, token: impl Into<String>) -> Self {
        Self { base_url: base_url.into(), token: token.into(), ca_pem: None, timeouts: Timeouts::default() }
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("base_url", &self.base_url)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

/// Times that a client waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For an answer.
    pub request: Duration,
    /// For the answer of a long poll of [`Client::wait`](super::Client::wait); longer than the server lets it
    /// wait (a minute at most).
    pub long_poll: Duration,
    /// For the answer to a worker's question what it should do; longer than
    /// [`EngineConfig::assignments_wait`](orch_core::engine::EngineConfig::assignments_wait) of the server.
    /// Where an answer is lost on its way, the worker hears nothing new for so long.
    pub assignments: Duration,
    /// For a sign of life in a stream; longer than the server's pauses of 15 seconds.
    pub idle: Duration,
    /// Attempts in all at a call that may be repeated.
    pub tries: u32,
    /// The delay before the second try; it doubles up to `backoff_max`.
    pub backoff: Duration,
    /// The longest delay between two tries.
    pub backoff_max: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(40),
            long_poll: Duration::from_secs(90),
            assignments: Duration::from_secs(26),
            idle: Duration::from_secs(45),
            tries: 5,
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
        }
    }
}

impl Timeouts {
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.backoff, self.backoff_max)
    }
}

#[cfg(test)]
mod tests {
    use orch_core::engine::EngineConfig;

    use super::*;

    #[test]
    fn a_question_for_assignments_waits_little_longer_than_the_server_lets_it() {
        let (asked, answered) = (Timeouts::default().assignments, EngineConfig::default().assignments_wait);
        assert!(asked >= answered + Duration::from_secs(5), "an answer needs time: {answered:?}, {asked:?}");
        assert!(asked <= answered + Duration::from_secs(10), "a lost answer holds the node up: {asked:?}");
    }
}
