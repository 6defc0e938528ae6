//! What etcd says, in words that say what to do.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use orch_core::store::StoreError;
use tonic::{Code, Status};

/// The backend's name in messages.
pub(super) const NAME: &str = "etcd";

/// The cause of a [`StoreError::Backend`].
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("{0}")]
    Url(&'static str),
    #[error("{member:?} is not the address of a member; it has the form host:port")]
    Address { member: String, source: tonic::transport::Error },
    #[error("{} cannot be read", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the certificates cannot be used; all of them are files in PEM form")]
    Tls { source: tonic::transport::Error },
    #[error("no member answered within {patience:?}; check their addresses, and that most of them run")]
    Unreachable { patience: Duration, source: Status },
    #[error("the cluster refused")]
    Refused { source: Status },
    #[error("the connection to the cluster was lost")]
    Lost { source: Status },
    #[error("the answer is not one of etcd to this question")]
    Answer,
}

pub(super) fn backend(operation: &'static str, retryable: bool, cause: Cause) -> StoreError {
    StoreError::Backend { store: NAME, operation, retryable, outcome_unknown: false, source: Arc::new(cause) }
}

/// What a transaction came to that may have reached the cluster.
pub(super) fn lost_commit(source: Status) -> StoreError {
    let (store, operation, source) = (NAME, "committing", Arc::new(Cause::Lost { source }));
    StoreError::Backend { store, operation, retryable: true, outcome_unknown: true, source }
}

/// What to do about a request that failed.
pub(super) enum Remedy {
    /// It did not reach a member: another one may take it.
    Elsewhere,
    /// Another try may work; whether this one did is not known.
    Unknown,
    /// It was refused, and would be again.
    None,
}

pub(super) fn remedy(status: &Status) -> Remedy {
    if refused_connection(status) {
        return Remedy::Elsewhere;
    }
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted => Remedy::Unknown,
        _ => Remedy::None,
    }
}

/// Nothing was sent where nobody listens.
fn refused_connection(status: &Status) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = cause {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        {
            return true;
        }
        cause = error.source();
    }
    false
}
