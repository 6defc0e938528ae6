//! What a server is told at its start.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;

use super::{auth::Tokens, legacy::LegacyConfig};

/// Where a server listens and what it accepts.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address to listen on; port 0 takes any free one.
    pub address: SocketAddr,
    /// Who may call what.
    pub tokens: Tokens,
    /// Certificate and key; without them connections are not encrypted, which is for loopback and for servers
    /// behind a proxy.
    pub tls: Option<TlsFiles>,
    /// Bounds on what callers may ask of it.
    pub limits: Limits,
    /// Whether the clients and workers of rust-orch are served, and which workers there are.
    pub legacy: LegacyConfig,
}

impl ServerConfig {
    /// A server without TLS and with defaults for the rest.
    #[must_use]
    pub fn new(address: SocketAddr, tokens: Tokens) -> Self {
        Self { address, tokens, tls: None, limits: Limits::default(), legacy: LegacyConfig::default() }
    }
}

/// Files in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those that lead to its root.
    pub cert_pem: PathBuf,
    /// Its private key.
    pub key_pem: PathBuf,
}

/// Bounds on what callers may ask of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, streams and long polls included; more are refused.
    pub connections_max: usize,
    /// Bytes of a request's line and headers together; at least 8192.
    pub header_bytes_max: usize,
    /// How long a caller may take for the TLS handshake, and for the headers of a request. Also ends idle
    /// connections.
    pub header_timeout: Duration,
    /// Bytes of a request's body. Workers may send four times as much: output that is not text takes four
    /// bytes a byte.
    pub body_bytes_max: usize,
    /// How long a caller may take for a request's body.
    pub body_timeout: Duration,
    /// How long an answer may take, other than streams and long polls.
    pub request_timeout: Duration,
    /// How long a caller may leave an answer unread.
    pub write_timeout: Duration,
    /// How long a shutdown waits for requests that are being answered.
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
    pub(super) fn validate(&self) -> Result<(), ServerError> {
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

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The limits contradict each other.
    #[error("the limits cannot work: {0}")]
    Limits(&'static str),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A file of [`TlsFiles`] cannot be used.
    #[error("cannot use {path} for TLS: {problem}", path = path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl TlsFiles {
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, ServerError> {
        let refuse = |path: &Path, problem: &dyn std::fmt::Display| ServerError::Tls {
            path: path.to_owned(),
            problem: problem.to_string(),
        };
        let certs = CertificateDer::pem_file_iter(&self.cert_pem)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| refuse(&self.cert_pem, &error))?;
        let key =
            PrivateKeyDer::from_pem_file(&self.key_pem).map_err(|error| refuse(&self.key_pem, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(certs, key))
            .map_err(|error| refuse(&self.cert_pem, &error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
