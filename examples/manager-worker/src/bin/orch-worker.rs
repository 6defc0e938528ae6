//! The worker by itself; `orch worker` is the same.

use std::process::ExitCode;

use clap::Parser;
use manager_worker::worker::WorkerArgs;

#[derive(Debug, Parser)]
#[command(name = "orch-worker", version, about = "Runs what a manager gives to this machine")]
struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    manager_worker::init_logging();
    manager_worker::cli::run_service(manager_worker::worker::run(args.worker))
}
