//! Errors of etcd, with the way out.

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
    #[error("no member answered within {retry_deadline:?}; check their addresses, and that most of them run")]
    Unreachable { retry_deadline: Duration, source: Status },
    #[error("the cluster refused")]
    Refused { source: Status },
    #[error(
        "the cluster does not let us in with this name and password; give those of one of its users, as in \
         etcds://name:password@host:port, and percent-encode what is not a letter or a digit"
    )]
    Login { source: Status },
    #[error("the connection to the cluster was lost")]
    Lost { source: Status },
    #[cfg(feature = "lease")]
    #[error(
        "this lease was taken by Lease::take; let all who want it take it in one way, and delete its records if nobody holds \
         it any more"
    )]
    OtherLease,
    #[error("the answer is not one of etcd to this request")]
    Answer,
}

pub(super) fn backend(operation: &'static str, retryable: bool, cause: Cause) -> StoreError {
    StoreError::Backend { store: NAME, operation, retryable, outcome_unknown: false, source: Arc::new(cause) }
}

pub(super) fn refused(operation: &'static str, source: Status) -> StoreError {
    let cause = if is_wrong_login(&source) { Cause::Login { source } } else { Cause::Refused { source } };
    backend(operation, false, cause)
}

/// Error of a transaction that may have reached the cluster.
pub(super) fn lost_commit(source: Status) -> StoreError {
    let (store, operation, source) = (NAME, "committing", Arc::new(Cause::Lost { source }));
    StoreError::Backend { store, operation, retryable: true, outcome_unknown: true, source }
}

/// True if the cluster refused with this.
pub(super) fn is(error: &StoreError, code: Code, text: &str) -> bool {
    // `Error::source` would give the `Arc` itself, which is no `Cause`.
    let StoreError::Backend { source, .. } = error else { return false };
    let cause = source.downcast_ref::<Cause>();
    matches!(cause, Some(Cause::Refused { source }) if source.code() == code && source.message().contains(text))
}

/// Next step after a failed request.
#[derive(Clone, Copy)]
pub(super) enum Remedy {
    /// It did not reach a member: another one may take it.
    Elsewhere,
    /// Another try may work; whether this one did is not known.
    Unknown,
    /// It was refused because a login has ended: at its time, with a restart of the member, or with a change
    /// of rights.
    LogIn,
    /// It was refused, and would be again.
    None,
}

pub(super) fn remedy(status: &Status) -> Remedy {
    if refused_connection(status) {
        return Remedy::Elsewhere;
    }
    if has_logged_out(status) {
        return Remedy::LogIn;
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

/// True if the cluster does not know our token any more.
fn has_logged_out(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || status.message().contains("revision of auth store is old")
}

/// True if it is the name or the password that is not right, or missing. etcd has no code for that.
pub(super) fn is_wrong_login(status: &Status) -> bool {
    let says = |text| status.message().contains(text);
    says("authentication failed") || says("user name is empty")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_recognized_by_its_code_and_text() {
        let gone = || Status::not_found("etcdserver: requested lease not found");
        let error = refused("releasing a lease", gone());
        assert!(is(&error, Code::NotFound, "lease not found"));
        assert!(!is(&error, Code::OutOfRange, "lease not found") && !is(&error, Code::NotFound, "compacted"));
        assert!(!is(&lost_commit(gone()), Code::NotFound, "lease not found"));
        assert!(!is(&StoreError::Closed, Code::NotFound, "lease not found"));
    }
}
