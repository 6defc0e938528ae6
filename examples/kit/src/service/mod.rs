//! Programs that stay: logging, the request to end, and the report of why one ended.

pub mod logging;
pub mod shutdown;

use std::process::ExitCode;

use crate::{failure::Failure, say, style::Style};

/// Runs a service to its end with logging on, and prints on standard error why it failed.
pub fn run<E: Into<Failure>>(style: &Style, service: impl Future<Output = Result<(), E>>) -> ExitCode {
    logging::init(style);
    finish(style, orch_core::block_on(service).map_err(Into::into))
}

/// Exit code of a result; the failure is printed on standard error.
#[must_use]
pub fn finish(style: &Style, result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                say::note(style, &failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// An error with its causes, in one line.
pub fn explain(error: impl std::error::Error) -> String {
    orch_core::with_causes(&error).to_string()
}
