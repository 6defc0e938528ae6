//! Program `orch-worker`: the worker alone; `orch worker` is the same.

use std::process::ExitCode;

use clap::Parser;
use manager_worker::{STYLE, worker::WorkerArgs};

#[derive(Debug, Parser)]
#[command(
    name = "orch-worker",
    version,
    about = "Runs what a manager gives to this machine",
    after_help = "Exit codes: 0 told to end; 1 something failed; 2 the command line is wrong; 6 the manager refuses the token."
)]
struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    orch_kit::service::run(&STYLE, manager_worker::worker::run(args.worker))
}
