//! The style on real Docker engines: the real programs, real containers, and everything that dies under them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod acceptance;
mod demo;
mod failures;
#[path = "../style/lab.rs"]
mod lab;
mod legacy;
mod outage;
mod site;
