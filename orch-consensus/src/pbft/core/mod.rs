//! The protocol without input or output: a replica and a client as functions of what happens to them.

pub(super) mod ballot;
pub(super) mod batch;
pub(super) mod client;
mod clients;
pub(super) mod config;
#[cfg(feature = "simulation")]
pub(super) mod fault;
mod guard;
mod history;
pub(super) mod ids;
pub(super) mod io;
mod kinds;
mod log;
pub(super) mod membership;
pub(super) mod message;
pub(super) mod quorum;
pub(super) mod record;
pub(super) mod replica;
mod service;
pub(super) mod statement;
pub mod wal;
mod wire;
