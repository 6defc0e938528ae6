//! The style manager / worker / CLI: one manager that decides, workers that run containers or programs, and a
//! command line. This crate contains only composition and the user interface of the style; everything else
//! comes from the libraries, and from the kit that styles share. [`rust_orch`] is the protocol of an older
//! system, whose clients, workers and managers go on working.

pub mod cli;
pub mod deployment;
pub mod manager;
pub mod rust_orch;
pub mod worker;

use orch_kit::Style;

/// Names of the style.
pub const STYLE: Style = Style {
    program: "orch",
    server: "manager",
    start: "orch-manager",
    url: "http://127.0.0.1:3000",
    variables: "ORCH",
    folder: "orch",
};

/// The project's front page is compiled as well.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct FrontPage;
