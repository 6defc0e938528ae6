//! Log lines on standard error, so that standard output stays for results.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::style::Style;

/// Starts logging; the variable `ORCH_LOG` of the style `ORCH` is the filter (`info` by default, `debug`,
/// `orch_core=debug,warn`, ...).
pub fn init(style: &Style) {
    // The engine's client logs whole requests at debug level, and those may contain secrets.
    const QUIET: &str = "bollard=info,hyper=info,hyper_util=info,rustls=info";
    let wanted = std::env::var(style.variable("LOG")).unwrap_or_else(|_| "info".into());
    let filter = EnvFilter::try_new(format!("{wanted},{QUIET}")).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would report a closed standard error on standard error, and panic.
        .log_internal_errors(false)
        .init();
}
