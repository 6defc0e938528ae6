//! Members over real sockets of loopback.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod allowed;
mod bench;
mod bounds;
mod conformance;
mod connections;
mod frames;
mod handshakes;
#[cfg(unix)]
mod identity;
mod order;
mod raw;
mod requests;
