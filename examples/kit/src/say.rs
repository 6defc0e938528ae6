//! Messages beside results. A closed output does not end the command; `println!` and `eprintln!` would panic.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use crate::style::Style;

/// Prints the one line on standard output that programs which start a service wait for.
pub fn announce(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line for people on standard error.
pub fn note(style: &Style, line: impl Display) {
    let _ = writeln!(io::stderr(), "{}: {line}", style.program);
}

/// Prints text without an end of line: progress, which the next one overwrites, and questions.
pub fn show(text: impl Display) {
    let _ = write!(io::stderr(), "{text}").and_then(|()| io::stderr().flush());
}
