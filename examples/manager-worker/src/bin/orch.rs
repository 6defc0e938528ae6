//! Program `orch`: the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    manager_worker::cli::main()
}
