//! Messages beside results. A closed output does not end the command; `println!` and `eprintln!` would panic.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// Prints the one line on standard output that programs which start a service wait for.
pub(crate) fn announce(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line for people on standard error.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "orch: {line}");
}

/// Prints text without an end of line: progress, which the next one overwrites, and questions.
pub(crate) fn show(text: impl Display) {
    let _ = write!(io::stderr(), "{text}").and_then(|()| io::stderr().flush());
}
