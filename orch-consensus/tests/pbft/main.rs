//! Groups of real members: in one process over an in-process network, and in processes of their own.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod callers;
mod clients;
mod conformance;
mod group;
mod log;
mod machine;
mod members;
mod peers;
mod processes;
