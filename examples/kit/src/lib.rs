//! Parts that deployment styles share. A style composes implementations of the five traits of `orch-core` and
//! has a surface of its own; the rest of a program that people use is here:
//!
//! - [`cli`]: commands on tasks and nodes, connections to a server, tables, exit codes
//! - [`config`]: options from flags, environment and a file; data directories, tokens, amounts with units
//! - [`service`]: logging, shutdown, the end of a service
//! - [`deployment`]: the parts of a style as processes, to be started, killed and healed
//! - [`demo`]: a deployment at work for a minute, with a verdict
//! - [`page`]: pages with one style sheet, light and dark
//! - `testing`, `acceptance` (feature `testing`): processes for tests, and the suite that every style passes

#[cfg(feature = "testing")]
pub mod acceptance;
pub mod cli;
pub mod config;
pub mod demo;
pub mod deployment;
mod failure;
pub mod page;
mod retry;
pub mod say;
pub mod service;
mod style;
#[cfg(feature = "testing")]
pub mod testing;

pub use failure::Failure;
pub use style::{ADMIN_TOKEN, Style};
