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
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A file of [`TlsFiles`](super::TlsFiles) cannot be used.
    #[error("cannot use {path} for TLS: {problem}", path = path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}
