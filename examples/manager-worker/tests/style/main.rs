//! The style as its users meet it: the real programs as processes of their own, on loopback.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod addresses;
mod bad_input;
mod commands;
mod demo;
mod disk;
mod failures;
mod lab;
mod layers;
mod legacy;
mod legacy_worker;
mod list;
mod names;
mod page;
mod reach;
mod stop;
