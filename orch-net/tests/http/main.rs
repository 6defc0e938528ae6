//! The API over real sockets: server, client and everything between them are real, runtimes are simulated.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod api;
mod bench;
mod events;
mod faults;
mod life;
mod limits;
mod mount;
mod problems;
mod shutdown;
mod tls;
