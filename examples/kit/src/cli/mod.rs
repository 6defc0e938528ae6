//! Commands on tasks and nodes of a cluster, for the command line of a style.
//!
//! A style flattens [`Command`] and [`Connect`] into its own parser, adds commands of its own, and hands the
//! rest to [`run`]. Commands see the cluster through [`Api`](orch_net::http::Api), so that
//! [`Command::carry_out`] works in the process of an orchestrator as well.

mod connect;
mod context;
mod events;
mod exit;
mod logs;
mod nodes;
mod progress;
mod resolve;
mod run;
mod selection;
mod session;
mod show;
mod stop;
pub mod table;
mod tasks;
mod why;

use std::{process::ExitCode, time::Duration};

use clap::Subcommand;
use orch_core::model::NodeId;

pub use self::{connect::Connect, context::ContextCommand, session::Session};
use self::{logs::LogRange, run::RunArgs, stop::StopArgs, tasks::ListArgs};
use crate::{config::units, failure::Failure, service, style::Style};

/// Commands of every style.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Submit a task: run NAME IMAGE ARGS...
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
    /// Like kubectl: get lists tasks, get nodes lists nodes, get TASK shows one.
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
    /// Manage named servers, and select the one to use by default.
    Context {
        #[command(subcommand)]
        command: ContextCommand,
    },
    /// Print a script that completes commands in a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The parser of a style's command line with the texts that name its server and its variables.
#[must_use]
pub fn describe(parser: clap::Command, style: &Style) -> clap::Command {
    connect::describe(parser, style).name(style.program).after_help(exit::help(style))
}

/// Carries out a command and reports its result. `parser` is the whole command line, for completions.
pub fn run(style: &Style, connect: &Connect, command: Command, mut parser: clap::Command) -> ExitCode {
    let done = match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut parser, style.program, &mut script);
            table::print(&String::from_utf8_lossy(&script))
        }
        Command::Context { command } => context::carry_out(style, connect, command),
        command => {
            let done =
                connect.session(style).and_then(|session| orch_core::block_on(command.carry_out(&session)));
            done.map_err(|failure| connect.advise(style, failure))
        }
    };
    service::finish(style, done)
}

impl Command {
    /// Carries out a command on the cluster of the session, and prints its result.
    ///
    /// # Errors
    /// [`Failure`] with the exit code that stands for it.
    pub async fn carry_out(self, session: &Session) -> Result<(), Failure> {
        match self {
            Self::Run(args) => run::run(session, *args).await,
            Self::List(args) => tasks::list(session, args).await,
            Self::Show { task } | Self::Status { task: Some(task) } => show::show(session, &task).await,
            Self::Get { what } => match what.as_str() {
                "tasks" | "task" => tasks::list(session, ListArgs::default()).await,
                "nodes" | "node" => nodes::list(session).await,
                task => show::show(session, task).await,
            },
            Self::Logs { task, range } => logs::logs(session, &task, &range).await,
            Self::Wait { tasks, timeout } => tasks::wait(session, &tasks, timeout).await,
            Self::Cancel(args) => stop::stop(session, args).await,
            Self::Explain { task } => show::explain(session, &task).await,
            Self::Nodes => nodes::list(session).await,
            Self::Drain { node, grace, wait } => nodes::drain(session, &node, grace, wait).await,
            Self::Cordon { node } => nodes::cordon(session, &node).await,
            Self::Uncordon { node } => nodes::uncordon(session, &node).await,
            Self::Remove { node } => nodes::remove(session, &node).await,
            Self::Events { from } => events::follow(session, from).await,
            Self::Status { task: None } => nodes::status(session).await,
            Self::Context { .. } | Self::Completions { .. } => {
                Err(Failure::usage("this is a command about the program, not about a cluster"))
            }
        }
    }
}
