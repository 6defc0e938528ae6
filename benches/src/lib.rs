//! Shared parts of the benchmarks: clusters to measure, and resource usage of processes.

pub mod arrivals;
pub mod cluster;
pub mod policies;
pub mod process;

use std::process::ExitCode;

/// Error of a benchmark program: something is missing, or a part of the system failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Exit code of a benchmark program, with the failure on standard error.
#[expect(clippy::print_stderr, reason = "a failure has to be seen")]
#[must_use]
pub fn exit_code(measured: Result<(), Failure>) -> ExitCode {
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
