//! Errors of the engine, mapped to the kinds that callers distinguish.

use bollard::errors::Error;
use orch_core::runtime::{RuntimeError, RuntimeErrorKind as Kind};

/// Error response of the engine, or none.
#[derive(Clone, Debug)]
pub(crate) enum EngineError {
    /// No response: the state is unknown.
    Gone(String),
    /// The engine became unreachable during a request, or did not respond in time: it is unknown whether the
    /// request was carried out.
    BrokenOff(String),
    /// It rejected the request, with an HTTP status and its own message.
    Refused { status: u16, message: String },
    /// Anything else, such as a response that cannot be parsed.
    Other(String),
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        match error {
            // The engine responds, but its containerd, which runs containers, does not.
            Error::DockerResponseServerError { message, .. } if message.contains("containerd.sock") => {
                Self::Gone(message)
            }
            Error::DockerResponseServerError { status_code: 503, message } => Self::Gone(message),
            Error::DockerResponseServerError { status_code, message } => {
                Self::Refused { status: status_code, message: message.trim().into() }
            }
            // Reported in the middle of a response that had begun as a success.
            Error::DockerStreamError { error } => Self::Refused { status: 500, message: error },
            Error::RequestTimeoutError => Self::Gone("it does not answer in time".into()),
            Error::SocketNotFoundError(path) => Self::Gone(format!("there is no socket at {path}")),
            Error::HyperLegacyError { ref err } if err.is_connect() => Self::Gone(with_causes(&error)),
            error @ (Error::IOError { .. }
            | Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. }) => Self::BrokenOff(with_causes(&error)),
            error => Self::Other(with_causes(&error)),
        }
    }
}

impl EngineError {
    pub(crate) fn is_status(&self, expected: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == expected)
    }

    /// Whether the engine has no such container. Any other 404 is not about a container: it may be about
    /// something that the operation needs, or come from a server that is no engine.
    pub(crate) fn is_missing_container(&self) -> bool {
        matches!(self, Self::Refused { status, message } if is_missing_container(*status, &message.to_lowercase()))
    }

    /// Runtime error for an operation on a container that was started.
    pub(crate) fn into_attempt(self, operation: &str) -> RuntimeError {
        self.sorted(operation, |status, text| is_missing_container(status, text).then_some(Kind::NotFound))
    }

    /// Runtime error for an operation without special cases.
    pub(crate) fn into_runtime(self, operation: &str) -> RuntimeError {
        self.sorted(operation, |_, _| None)
    }

    /// Runtime error for a pull. The engine distinguishes causes by text alone.
    pub(crate) fn into_pull(self, operation: &str) -> RuntimeError {
        const REFUSED: [&str; 5] = [
            "no basic auth credentials",
            "unauthorized",
            "authentication required",
            "incorrect username or password",
            "denied: requested access",
        ];
        const DOWN: [&str; 12] = [
            "connection refused",
            "connection reset",
            "no such host",
            "i/o timeout",
            "tls handshake",
            "deadline exceeded",
            "client.timeout exceeded",
            "network is unreachable",
            "no route to host",
            "toomanyrequests",
            "server gave http response to https client",
            "received unexpected http status: 5",
        ];
        self.sorted(operation, |status, text| {
            let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
            match status {
                _ if says(&["invalid reference format"]) => Some(Kind::BadReference),
                404 => Some(Kind::ImageNotFound),
                _ if says(&REFUSED) => Some(Kind::CredentialsRefused),
                _ if says(&["manifest unknown", "not found", "no matching manifest"]) => {
                    Some(Kind::ImageNotFound)
                }
                _ if says(&DOWN) || text.ends_with("eof") => Some(Kind::RegistryUnavailable),
                _ => None,
            }
        })
    }

    /// Runtime error for the creation of a container.
    pub(crate) fn into_create(self, operation: &str) -> RuntimeError {
        self.sorted(operation, |status, text| match status {
            404 if text.contains("no such image") || text.contains("image not known") => {
                Some(Kind::ImageNotFound)
            }
            400 | 404 => Some(Kind::InvalidSpec),
            _ if text.contains("working directory") || text.contains("cannot mkdir") => {
                Some(Kind::InvalidSpec)
            }
            _ => None,
        })
    }

    /// Runtime error for the start of a container.
    pub(crate) fn into_start(self, operation: &str) -> RuntimeError {
        const IMPOSSIBLE: [&str; 7] = [
            "unable to find user",
            "unable to find group",
            "no matching entries in passwd",
            "executable file not found",
            "no such file or directory: unknown",
            "could not select device driver",
            "error gathering device information",
        ];
        self.sorted(operation, |status, text| match status {
            // Somebody removed it before it was started: a retry creates another.
            404 if is_missing_container(status, text) => Some(Kind::Unavailable),
            400 | 404 => Some(Kind::InvalidSpec),
            _ if IMPOSSIBLE.iter().any(|word| text.contains(word)) => Some(Kind::InvalidSpec),
            _ => None,
        })
    }

    /// Maps the error; `kind` gets the status and the engine's message in lower case.
    fn sorted(self, operation: &str, kind: impl FnOnce(u16, &str) -> Option<Kind>) -> RuntimeError {
        match self {
            Self::Gone(message) | Self::BrokenOff(message) => {
                RuntimeError::new(Kind::Unavailable, format!("cannot {operation}: engine: {message}"))
            }
            Self::Other(message) => {
                RuntimeError::new(Kind::Internal, format!("cannot {operation}: {message}"))
            }
            Self::Refused { status, message } => {
                let text = message.to_lowercase();
                let kind = match text.contains("no space left on device") {
                    true => Kind::NoSpace,
                    false => kind(status, &text).unwrap_or(Kind::Internal),
                };
                RuntimeError::new(kind, format!("cannot {operation}: {message} (engine status {status})"))
            }
        }
    }
}

/// Whether the message is about a missing container. `text` is in lower case.
fn is_missing_container(status: u16, text: &str) -> bool {
    status == 404 && text.contains("no such container")
}

/// Message with its causes: the client's errors hide the cause, which people need, behind `source`.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, message: &str) -> EngineError {
        Error::DockerResponseServerError { status_code: status, message: message.into() }.into()
    }

    #[test]
    fn pulls_are_told_apart_by_what_the_engine_says() {
        for (status, message, kind) in [
            (404, "manifest for 127.0.0.1:1/a:b not found: manifest unknown", Kind::ImageNotFound),
            (404, "pull access denied for a, repository does not exist", Kind::ImageNotFound),
            (
                500,
                "Get \"http://127.0.0.1:1/v2/\": dial tcp: connect: connection refused",
                Kind::RegistryUnavailable,
            ),
            (500, "Get \"https://r.example/v2/\": EOF", Kind::RegistryUnavailable),
            (500, "Head \"http://127.0.0.1:1/\": no basic auth credentials", Kind::CredentialsRefused),
            (500, "Head \"http://r/\": unauthorized: authentication required", Kind::CredentialsRefused),
            (400, "invalid reference format", Kind::BadReference),
            (500, "write /x: no space left on device", Kind::NoSpace),
            (500, "something new", Kind::Internal),
        ] {
            assert_eq!(refused(status, message).into_pull("pull").kind, kind, "{message}");
        }
    }

    #[test]
    fn starts_that_can_never_work_are_not_retried() {
        let error = refused(400, "exec: \"/no\": stat /no: no such file").into_start("start");
        assert!(!error.kind.is_retryable());
        let error =
            refused(500, "unable to find user x: no matching entries in passwd file").into_start("start");
        assert!(!error.kind.is_retryable());
        let error = refused(500, "port is already allocated").into_start("start");
        assert!(error.kind.is_retryable());
        assert_eq!(error.message, "cannot start: port is already allocated (engine status 500)");
    }

    #[test]
    fn only_a_missing_container_is_a_missing_attempt() {
        let missing = || refused(404, "No such container: orch-1");
        assert_eq!(missing().into_attempt("wait").kind, Kind::NotFound);
        assert_eq!(missing().into_start("start").kind, Kind::Unavailable);
        for message in ["page not found", "network n not found", "No such image: i"] {
            let other = || refused(404, message);
            assert!(!other().is_missing_container());
            assert_eq!(other().into_attempt("wait").kind, Kind::Internal, "{message}");
        }
        assert_eq!(refused(404, "network n not found").into_start("start").kind, Kind::InvalidSpec);
    }

    #[test]
    fn an_engine_without_its_containerd_is_gone() {
        let error = refused(500, "dial unix /run/containerd.sock: connect: connection refused");
        assert_eq!(error.into_start("start").kind, Kind::Unavailable);
        let error: EngineError = Error::RequestTimeoutError.into();
        assert_eq!(error.into_runtime("list").kind, Kind::Unavailable);
    }
}
