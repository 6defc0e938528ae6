//! [`CommandQueue`].

use tokio::sync::mpsc;

use super::handle::AgentCommand;

/// Commands of the handle.
#[derive(Debug)]
pub(super) struct CommandQueue {
    commands: mpsc::Receiver<AgentCommand>,
    /// One that could not be carried out yet.
    first: Option<AgentCommand>,
}

impl CommandQueue {
    pub(super) fn new(commands: mpsc::Receiver<AgentCommand>) -> Self {
        Self { commands, first: None }
    }

    /// The next command; never, when the handle was dropped. Cancel safe.
    pub(super) async fn next(&mut self) -> AgentCommand {
        if let Some(command) = self.first.take() {
            return command;
        }
        match self.commands.recv().await {
            Some(command) => command,
            None => std::future::pending().await,
        }
    }

    pub(super) fn put_back(&mut self, command: AgentCommand) {
        self.first = Some(command);
    }
}
