//! The command line `orch`.

mod connect;
mod context;
mod events;
mod exit;
mod logs;
mod nodes;
mod progress;
mod resolve;
mod run;
mod show;
mod stop;
mod table;
mod tasks;
mod why;

use std::{process::ExitCode, time::Duration};

use clap::{CommandFactory as _, Parser, Subcommand};
use orch_core::model::NodeId;

pub use self::exit::Failure;
pub(crate) use self::table::render as render_table;
use self::{
    connect::Connect, context::ContextCommand, logs::LogRange, resolve::Scope, run::RunArgs, stop::StopArgs,
    tasks::ListArgs,
};
use crate::{demo, manager::ManagerArgs, units, worker::WorkerArgs};

/// Runs tasks on a few machines: one manager decides, workers run.
#[derive(Debug, Parser)]
#[command(name = "orch", version, after_help = exit::HELP)]
struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    scope: Scope,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Submit a task: orch run NAME IMAGE [ARGS]...
    Run(Box<RunArgs>),
    /// List tasks, the newest first.
    #[command(visible_aliases = ["ls", "ps"])]
    List(ListArgs),
    /// Show everything about a task.
    #[command(visible_aliases = ["inspect", "describe"])]
    Show {
        /// Id, the beginning of one, or name.
        task: String,
    },
    /// Like kubectl: get [tasks] lists tasks, get nodes lists nodes, get TASK shows one.
    Get {
        /// tasks, nodes, or a task.
        #[arg(default_value = "tasks")]
        what: String,
    },
    /// Print a task's output.
    Logs {
        /// Id, the beginning of one, or name.
        task: String,
        #[command(flatten)]
        range: LogRange,
    },
    /// Wait until tasks have finished; the exit code is the result.
    Wait {
        /// Ids, beginnings of ids, or names.
        #[arg(required = true)]
        tasks: Vec<String>,
        /// Give up after this time.
        #[arg(long, value_name = "TIME", value_parser = units::duration)]
        timeout: Option<Duration>,
    },
    /// Cancel tasks: by id or name, by a filter, or all.
    #[command(visible_aliases = ["stop", "kill"])]
    Cancel(StopArgs),
    /// Explain why a task is pending.
    Explain {
        /// Id, the beginning of one, or name.
        task: String,
    },
    /// List nodes.
    Nodes,
    /// Drain a node: it accepts nothing new, and its tasks are moved to other nodes.
    Drain {
        /// The node.
        node: NodeId,
        /// Grace period of its tasks before they are stopped.
        #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::duration)]
        #[arg(alias = "patience")]
        grace: Duration,
        /// Return when the node is empty.
        #[arg(long)]
        wait: bool,
    },
    /// Cordon a node: it keeps its tasks and accepts nothing new.
    Cordon {
        /// The node.
        node: NodeId,
    },
    /// Make a node schedulable again.
    #[command(alias = "open")]
    Uncordon {
        /// The node.
        node: NodeId,
    },
    /// Remove a node that is lost or empty.
    #[command(visible_alias = "rm")]
    Remove {
        /// The node.
        node: NodeId,
    },
    /// Follow events.
    Events {
        /// Begin after this revision instead of now.
        #[arg(long, value_name = "REVISION")]
        from: Option<u64>,
    },
    /// Show the status of the cluster, or show a task.
    Status {
        /// Id, the beginning of one, or name.
        task: Option<String>,
    },
    /// Manage named managers, and select the one to use by default.
    Context {
        #[command(subcommand)]
        command: ContextCommand,
    },
    /// Demonstrate everything: a manager, three workers and a mixed load, in less than a minute.
    Demo(demo::DemoArgs),
    /// Run the manager.
    Manager(ManagerArgs),
    /// Run a worker.
    Worker(WorkerArgs),
    /// Print a script that completes commands in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Parses the command line, runs the command and reports its result.
pub fn main() -> ExitCode {
    let Args { connect, scope, command } = Args::parse();
    match command {
        Command::Manager(args) => {
            crate::init_logging();
            run_service(crate::manager::run(args))
        }
        Command::Worker(args) => {
            crate::init_logging();
            run_service(crate::worker::run(args))
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "orch", &mut script);
            finish(table::print(&String::from_utf8_lossy(&script)))
        }
        command => {
            let done = orch_core::block_on(carry_out(&connect, &scope, command));
            finish(done.map_err(|failure| connect.advise(failure)))
        }
    }
}

/// Runs a manager or worker and prints on standard error why it failed.
pub fn run_service<E: Into<Failure>>(service: impl Future<Output = Result<(), E>>) -> ExitCode {
    finish(orch_core::block_on(service).map_err(Into::into))
}

async fn carry_out(connect: &Connect, scope: &Scope, command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(connect, *args, scope).await,
        Command::List(args) => tasks::list(connect, args, scope).await,
        Command::Show { task } | Command::Status { task: Some(task) } => {
            show::show(connect, &task, scope).await
        }
        Command::Get { what } => match what.as_str() {
            "tasks" | "task" => tasks::list(connect, ListArgs::default(), scope).await,
            "nodes" | "node" => nodes::list(connect).await,
            task => show::show(connect, task, scope).await,
        },
        Command::Logs { task, range } => logs::logs(connect, &task, &range, scope).await,
        Command::Wait { tasks, timeout } => tasks::wait(connect, &tasks, timeout, scope).await,
        Command::Cancel(args) => stop::stop(connect, args, scope).await,
        Command::Explain { task } => show::explain(connect, &task, scope).await,
        Command::Nodes => nodes::list(connect).await,
        Command::Drain { node, grace, wait } => nodes::drain(connect, &node, grace, wait).await,
        Command::Cordon { node } => nodes::cordon(connect, &node).await,
        Command::Uncordon { node } => nodes::uncordon(connect, &node).await,
        Command::Remove { node } => nodes::remove(connect, &node).await,
        Command::Events { from } => events::follow(connect, from, scope).await,
        Command::Status { task: None } => nodes::status(connect).await,
        Command::Context { command } => context::carry_out(connect, command),
        Command::Demo(args) => demo::run(args).await.map_err(Failure::other),
        Command::Manager(_) | Command::Worker(_) | Command::Completions { .. } => {
            unreachable!("main carries these out")
        }
    }
}

fn finish(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                crate::say::note(&failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
