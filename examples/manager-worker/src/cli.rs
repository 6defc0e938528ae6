//! The command line `orch`.

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use orch_kit::{
    Failure,
    cli::{self, Connect},
    config::layers,
    demo::DemoArgs,
    service,
};

use crate::{STYLE, deployment, manager, manager::ManagerArgs, worker, worker::WorkerArgs};

/// Runs tasks on a few machines: one manager decides, workers run.
#[derive(Debug, Parser)]
#[command(name = "orch", version)]
struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Cluster(cli::Command),
    /// Demonstrate everything: a manager, three workers and a mixed load, in less than a minute.
    Demo(DemoArgs),
    /// Run the manager.
    Manager(ManagerArgs),
    /// Run a worker.
    Worker(WorkerArgs),
}

/// Parses the command line, runs the command and reports its result.
pub fn main() -> ExitCode {
    let argv = std::env::args_os().collect();
    let matches = layers::parse_subcommands(&STYLE, &["manager", "worker"], parser(), argv);
    let args = matches.and_then(|matches| Args::from_arg_matches(&matches));
    let Args { connect, command } = args.unwrap_or_else(|error| error.exit());
    match command {
        Command::Manager(args) => service::run(&STYLE, manager::run(args)),
        Command::Worker(args) => service::run(&STYLE, worker::run(args)),
        Command::Demo(args) => {
            let shown = orch_core::block_on(deployment::demonstrate(args));
            service::finish(&STYLE, shown.map_err(Failure::other))
        }
        Command::Cluster(command) => cli::run(&STYLE, &connect, command, parser()),
    }
}

fn parser() -> clap::Command {
    cli::describe(Args::command(), &STYLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        parser().debug_assert();
    }
}
