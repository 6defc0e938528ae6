//! Words beside results. Where nobody reads them any more, what they are about goes on; `println!` and
//! `eprintln!` would panic.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// The one line on standard output that programs which start a service wait for.
pub(crate) fn announce(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A line for people, on standard error.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "orch: {line}");
}

/// Text without an end of line: progress, which the next one writes over, and questions.
pub(crate) fn show(text: impl Display) {
    let _ = write!(io::stderr(), "{text}").and_then(|()| io::stderr().flush());
}
