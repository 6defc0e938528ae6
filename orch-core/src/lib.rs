#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

pub mod consensus;
pub mod engine;
pub mod environment;
#[doc(hidden)]
pub mod fault;
mod hex;
pub mod model;
pub mod output;
mod panics;
pub mod runtime;
pub mod scheduler;
pub mod state;
pub mod store;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod transport;

pub use engine::{Error, Orchestrator, Result};

/// Runs a future to its end on a runtime of its own, for programs that have no asynchronous main function.
///
/// # Panics
/// When called from within an asynchronous runtime, or when the system refuses threads.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the system has threads and timers")
        .block_on(future)
}
