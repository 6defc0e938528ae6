//! [`AgentHandle`]: what the owner of an agent holds.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::engine::link::LinkError;

/// State of an agent towards the control side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// It has not reached it yet, or lost it. The text says what happened last.
    Connecting(String),
    /// It is registered and takes work.
    Registered,
    /// The control side will not have it. It goes on asking.
    Refused(String),
    /// A newer process of this agent has taken the node over. It has removed what it ran and ended.
    Fenced(String),
}

/// Steers an agent that runs in the background. Dropping it leaves the agent running; one whose orchestrator
/// is in this process ends with it.
#[derive(Debug)]
pub struct AgentHandle {
    pub(super) commands: mpsc::Sender<AgentCommand>,
    pub(super) state: watch::Receiver<AgentState>,
    pub(super) stop_grace: watch::Receiver<Duration>,
    pub(super) task: JoinHandle<()>,
}

/// Commands of an agent's owner.
#[derive(Debug)]
pub(super) enum AgentCommand {
    Drain(Duration),
    Leave,
}

impl AgentHandle {
    /// Waits until the agent is registered for the first time. Cancel safe.
    ///
    /// # Errors
    /// [`LinkError::Refused`] when the control side will not have it.
    pub async fn registered(&self) -> Result<(), LinkError> {
        let mut state = self.state.clone();
        let decided = state.wait_for(|state| !matches!(state, AgentState::Connecting(_))).await;
        match decided.as_deref() {
            Ok(AgentState::Refused(why)) => Err(LinkError::Refused(why.clone())),
            Ok(AgentState::Fenced(why)) => Err(LinkError::Fenced(why.clone())),
            Ok(_) => Ok(()),
            Err(_) => Err(LinkError::Unavailable("the agent has ended".into())),
        }
    }

    /// Waits until the agent has ended: it drained, left, gave way to a newer process, or its orchestrator in
    /// this process ended. Cancel safe.
    pub async fn ended(&self) {
        let mut state = self.state.clone();
        while state.changed().await.is_ok() {}
    }

    /// Its state, now and whenever it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<AgentState> {
        self.state.clone()
    }

    /// Takes nothing new, waits up to `grace` for what runs, stops the rest and waits for that to be
    /// reported, then ends. What an earlier incarnation left running is taken over for that. Stopping takes
    /// up to the longest grace that a task there asks for; then a report has half a minute to get through.
    pub async fn drain(mut self, grace: Duration) {
        self.drain_within(grace).await;
    }

    /// The same for an owner that may give up waiting; it must not be called again once it has returned.
    pub(in crate::engine) async fn drain_within(&mut self, grace: Duration) {
        const REPORTING: Duration = Duration::from_secs(30);
        let begun = Instant::now();
        let _ = self.commands.send(AgentCommand::Drain(grace)).await;
        loop {
            // A control side that is gone must not hold this up for ever.
            let stop_grace = *self.stop_grace.borrow_and_update();
            let most = grace.saturating_add(stop_grace).saturating_add(REPORTING);
            tokio::select! {
                _ = &mut self.task => return,
                Ok(()) = self.stop_grace.changed() => {}
                () = tokio::time::sleep(most.saturating_sub(begun.elapsed())) => return self.task.abort(),
            }
        }
    }

    /// Ends at once and leaves everything running, for the next incarnation of the agent to take over.
    pub async fn leave(self) {
        let _ = self.commands.send(AgentCommand::Leave).await;
        let _ = self.task.await;
    }

    /// The same without waiting for it.
    pub(in crate::engine) fn dismiss(self) {
        if self.commands.try_send(AgentCommand::Leave).is_err() {
            // It has ended, or its queue is full.
            self.task.abort();
        }
    }
}
