//! Program `orch-worker`: the worker alone; `orch worker` is the same.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use manager_worker::{STYLE, worker::WorkerArgs};
use orch_kit::{config::layers, service};

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
    let argv = std::env::args_os().collect();
    let matches = layers::parse(&STYLE, "worker", Args::command(), argv).unwrap_or_else(|error| error.exit());
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    service::run(&STYLE, manager_worker::worker::run(args.worker))
}
