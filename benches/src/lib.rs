//! What the benchmarks share: clusters to measure, and what the system says about a process.

pub mod arrivals;
pub mod cluster;
pub mod policies;
pub mod process;

/// What the programs of this package end with when something is missing.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
