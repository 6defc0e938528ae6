//! Program `orch-manager`: the manager alone; `orch manager` is the same.

use std::process::ExitCode;

use clap::Parser;
use manager_worker::{STYLE, manager::ManagerArgs};

#[derive(Debug, Parser)]
#[command(name = "orch-manager", version, about = "Decides which worker runs which task")]
struct Args {
    #[command(flatten)]
    manager: ManagerArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    orch_kit::service::run(&STYLE, manager_worker::manager::run(args.manager))
}
