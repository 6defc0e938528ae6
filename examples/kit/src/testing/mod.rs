//! Tests of a style with its real programs: processes, and requests as bytes. Failures panic.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod browser;
mod http;
mod process;

pub use self::{
    browser::Browser,
    http::{Answer, request},
    process::{Done, PATIENCE, Service, fixture, lines_of, wait_until_gone},
};
