//! [`ServerError`].

use std::{io, net::SocketAddr, path::PathBuf};

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
        /// The address.
        address: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
    /// A file of [`TlsFiles`](super::TlsFiles) cannot be used.
    #[error("cannot use {path} for TLS: {problem}", path = path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// The problem, in words for people.
        problem: String,
    },
}
