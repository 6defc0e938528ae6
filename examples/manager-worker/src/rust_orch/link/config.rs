//! [`LinkConfig`] and [`OpenError`].

use std::time::Duration;

use orch_core::store::StoreError;
use orch_net::http::{ClientError, JsonClient, JsonClientConfig};

/// Manager of rust-orch to work for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
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

impl LinkConfig {
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

    /// Without a token, with one request a connection, and names of headers in the case that their parser
    /// expects.
    pub(super) fn client(&self) -> Result<JsonClient, ClientError> {
        JsonClient::new(&JsonClientConfig {
            ca_pem: self.ca_pem.clone(),
            answer_bytes_max: self.answer_bytes_max,
            keep_alive: false,
            title_case_headers: true,
            ..JsonClientConfig::new(&self.base_url)
        })
    }
}

/// Why a link cannot start.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(ClientError),
    /// The journal of an earlier incarnation cannot be read.
    #[error("the journal of tasks cannot be read")]
    Journal(#[source] StoreError),
}
