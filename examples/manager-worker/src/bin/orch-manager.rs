//! Program `orch-manager`: the manager alone; `orch manager` is the same.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use manager_worker::{STYLE, manager::ManagerArgs};
use orch_kit::{config::layers, service};

#[derive(Debug, Parser)]
#[command(name = "orch-manager", version, about = "Decides which worker runs which task")]
struct Args {
    #[command(flatten)]
    manager: ManagerArgs,
}

fn main() -> ExitCode {
    let argv = std::env::args_os().collect();
    let matches =
        layers::parse(&STYLE, "manager", Args::command(), argv).unwrap_or_else(|error| error.exit());
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    service::run(&STYLE, manager_worker::manager::run(args.manager))
}
