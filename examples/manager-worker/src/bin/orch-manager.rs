//! Program `orch-manager`: the manager alone; `orch manager` is the same.

use std::process::ExitCode;

use clap::Parser;
use manager_worker::manager::ManagerArgs;

#[derive(Debug, Parser)]
#[command(name = "orch-manager", version, about = "Decides which worker runs which task")]
struct Args {
    #[command(flatten)]
    manager: ManagerArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    manager_worker::init_logging();
    manager_worker::cli::run_service(manager_worker::manager::run(args.manager))
}
