//! rust-orch's protocol over real sockets; runtimes are simulated. `tests/style` has the real programs.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod link;
mod manager;
