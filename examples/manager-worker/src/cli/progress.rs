//! Progress for somebody who waits: one line on standard error that changes, on a terminal only.

use std::io::IsTerminal as _;

/// Line of progress. Gone when it is dropped.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    /// Whether somebody sees it.
    pub(super) fn is_seen(&self) -> bool {
        self.terminal
    }

    #[expect(clippy::print_stderr, reason = "progress beside the result")]
    pub(super) fn show(&self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}
