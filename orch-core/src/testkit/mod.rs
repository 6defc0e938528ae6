//! Conformance suites for the traits, for the authors of backends. Each `run_all` panics with the name of the case
//! and what it expected.

pub mod store;
pub mod transport;
