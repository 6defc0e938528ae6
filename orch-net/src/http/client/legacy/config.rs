//! [`LegacyLinkConfig`] and [`LegacyLinkError`].

use std::time::Duration;

use orch_core::store::StoreError;

use crate::http::client::ClientError;

/// Manager of rust-orch to work for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyLinkConfig {
    /// `http://HOST:PORT`.
    pub base_url: String,
    /// Certificates in PEM form to trust instead of the public ones, for a manager behind a proxy with TLS.
    pub ca_pem: Option<Vec<u8>>,
    /// Interval of its polls.
    pub poll_interval: Duration,
    /// Time that an answer may take.
    pub request_timeout: Duration,
    /// The largest list of tasks that is taken.
    pub answer_bytes_max: usize,
}

impl LegacyLinkConfig {
    /// The manager at this address, asked every five seconds as their own worker does, with defaults for the
    /// rest.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            ca_pem: None,
            poll_interval: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            answer_bytes_max: 16 << 20,
        }
    }
}

/// Why a link cannot start.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LegacyLinkError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(ClientError),
    /// The journal of an earlier incarnation cannot be read.
    #[error("the journal of tasks cannot be read")]
    Journal(#[source] StoreError),
}
