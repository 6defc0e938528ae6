//! Conformance suites for the authors of backends: one module per trait, each with a `run_all` that a
//! backend's own tests call. Cases that need a capability which a backend does not declare are skipped.

pub mod child;
pub mod consensus;
mod counter;
pub mod engine;
mod layers;
pub mod output;
mod rewindable;
pub mod runtime;
pub mod scheduler;
mod simulated;
pub mod store;
pub mod transport;

pub use counter::Counter;
pub use layers::{Layered, OutputLayer, RuntimeLayer, StoreLayer};
pub use rewindable::{Backup, RewindableStore};
pub use simulated::SimulatedRuntime;

use crate::runtime::RuntimeError;

/// Failure of a case. Made from a message or from the error that the backend should not have returned.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

/// Result of a case.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self(message)
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self(format!("unexpected error ({}): {error}", error.kind.as_str()))
    }
}

/// Ends the case with a message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::testkit::Failure(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;
