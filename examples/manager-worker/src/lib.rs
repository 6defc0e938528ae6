//! The style manager / worker / CLI: one manager that decides, workers that run containers or programs, and a
//! command line. This crate contains only composition and the user interface of the style; everything else
//! comes from the libraries.

mod address;
pub mod cli;
mod data_dir;
mod demo;
mod logging;
pub mod manager;
pub mod rust_orch;
mod say;
mod shutdown;
mod units;
pub mod worker;

pub use logging::init as init_logging;

/// The project's front page is compiled as well.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct FrontPage;
