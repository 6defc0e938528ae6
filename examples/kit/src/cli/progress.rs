//! Progress of a command that waits: one line on standard error that changes, on a terminal only.

use std::io::IsTerminal as _;

use super::table;

/// Line of progress. Erased when it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// Whether the progress is visible.
    pub(super) fn is_seen(&self) -> bool {
        self.terminal
    }

    pub(super) fn show(&self, text: &str) {
        if self.terminal {
            crate::say::show(format_args!("\r\x1b[K{}", table::one_line(text)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}
