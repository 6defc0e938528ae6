//! [`Failure`]: the reason why a program of a style ends, and its exit code.

use orch_net::http::ClientError;

/// Message for standard error, and the exit code.
#[derive(Debug)]
pub struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
    /// Cause, where there is advice for it.
    pub(crate) cause: Option<Cause>,
}

/// Causes that depend on the connection to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Unreachable,
    UnknownToken,
    WeakToken,
}

impl Failure {
    /// Exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }

    /// A failure with this exit code.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), cause: None }
    }

    /// Exit code 1: something failed.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(1, message)
    }

    /// Exit code 2: the command line, a file or a variable is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(2, message)
    }

    /// Exit code 4: no such task or node.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(4, message)
    }

    /// Exit code 6: the token of a service is not that of its server.
    pub fn token_refused(message: impl Into<String>) -> Self {
        Self::new(6, message)
    }

    /// Exit code 13: it did not finish in the given time.
    pub fn out_of_time(message: impl Into<String>) -> Self {
        Self::new(13, message)
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::other(message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Problem(problem) if problem.status == 404 => 4,
            ClientError::Problem(_) => 5,
            ClientError::Unreachable(_) => 3,
            _ => 1,
        };
        let cause = match &error {
            ClientError::Unreachable(_) => Some(Cause::Unreachable),
            ClientError::Problem(problem) if problem.status == 401 => Some(Cause::UnknownToken),
            ClientError::Problem(problem) if problem.code == "forbidden" => Some(Cause::WeakToken),
            _ => None,
        };
        let message = match error {
            ClientError::Unreachable(why) => why,
            error => error.to_string(),
        };
        Self { code, message, cause }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // The reader has closed the output.
            std::io::ErrorKind::BrokenPipe => Self::new(0, ""),
            _ => Self::other(error.to_string()),
        }
    }
}
