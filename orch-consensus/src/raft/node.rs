//! One member at work: what it asks of others, and what it responses.

use std::{sync::Arc, time::Duration};

use openraft::{
    error::{ClientWriteError, RaftError},
    metrics::RaftServerMetrics,
};
use orch_core::{
    consensus::ConsensusError,
    store::StoreError,
    transport::{PeerId, TransportError},
};
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};

use super::{
    config::RaftConfig,
    machine::View,
    network::{Network, RpcError},
    snapshot_receiver::SnapshotReceiver,
    types::{Applied, Command, NodeInfo, Raft},
    wire::{Request, Response},
};

/// State that the tasks of a member share.
pub(super) struct Node {
    pub(super) us: u64,
    pub(super) raft: Raft,
    pub(super) network: Network,
    pub(super) view: Arc<View>,
    pub(super) config: RaftConfig,
    pub(super) snapshots: SnapshotReceiver,
    /// One change of members at a time.
    pub(super) changes: Mutex<()>,
    /// Last error outside of openraft.
    pub(super) last_error: watch::Sender<Option<String>>,
}

/// Leader, as far as this member knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leader {
    node: u64,
    peer: PeerId,
}

/// Error of a request that only a leader can carry out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(super) struct ForwardError {
    pub(super) why: String,
    /// A leader may have begun it.
    pub(super) begun: bool,
    /// This member has failed for good.
    pub(super) fatal: bool,
}

impl ForwardError {
    pub(super) fn into_error(self, operation: &'static str) -> ConsensusError {
        match (self.begun, self.fatal) {
            (false, false) => return ConsensusError::no_leader(self),
            (true, false) => return ConsensusError::unknown_outcome(self),
            (_, true) => {}
        }
        ConsensusError::Store(StoreError::Backend {
            store: "raft",
            operation,
            retryable: false,
            outcome_unknown: self.begun,
            source: Arc::new(self),
        })
    }
}

impl Node {
    /// Reason for which this member has failed for good.
    pub(super) fn failure(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let stopped = metrics.borrow().running_state.as_ref().err().map(ToString::to_string);
        let died = || metrics.has_changed().is_err().then(|| "the task of openraft has ended".to_owned());
        stopped.or_else(died).or_else(|| self.last_error.borrow().clone())
    }

    pub(super) fn leader(&self) -> Option<Leader> {
        leader_in(&self.raft.server_metrics().borrow())
    }

    pub(super) fn leads(&self) -> bool {
        self.leader().is_some_and(|leader| leader.node == self.us)
    }

    /// Sends the request to the leader, to each new one too, until there is a final response or the deadline.
    /// Asking twice must do no harm.
    pub(super) async fn request_leader(
        &self,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, ForwardError> {
        let deadline = Instant::now() + timeout;
        let mut failure = ForwardError { why: "no leader is known".into(), begun: false, fatal: false };
        loop {
            let leader = self.leader_by(deadline, &failure).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = match request {
                Request::Change(_) => self.config.catch_up_timeout + self.config.attempt_timeout,
                _ => self.config.attempt_timeout,
            };
            let asked = tokio::select! {
                answer = self.call(leader, request, left.min(limit)) => answer,
                () = self.leader_is_not(leader) => Err(RpcError::Deposed(leader.peer)),
            };
            match asked {
                Ok(Response::NotLeader) => {
                    failure.why = format!("peer {} does not lead any more", leader.peer);
                }
                Ok(Response::NotNow) => {
                    failure.begun = true;
                    failure.why = format!("peer {} could not finish it", leader.peer);
                }
                Ok(Response::Refused(_)) if failure.begun => {
                    failure.why = "an earlier try may have been applied, and its outcome is forgotten".into();
                    return Err(failure);
                }
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    failure.begun |= error.may_have_arrived();
                    failure.why = error.to_string();
                }
            }
            self.pause(leader, deadline).await;
        }
    }

    async fn leader_by(&self, deadline: Instant, failure: &ForwardError) -> Result<Leader, ForwardError> {
        let mut servers = self.raft.server_metrics();
        loop {
            if let Some(why) = self.failure() {
                return Err(ForwardError { why, fatal: true, ..failure.clone() });
            }
            if Instant::now() >= deadline {
                return Err(failure.clone());
            }
            let leader = leader_in(&servers.borrow_and_update());
            if let Some(leader) = leader {
                return Ok(leader);
            }
            // The last word of a member that fails comes over another channel: it is looked for above.
            let _ = tokio::time::timeout_at(
                deadline.min(Instant::now() + self.config.heartbeat),
                servers.changed(),
            )
            .await;
        }
    }

    /// Waits a moment, or less when there is another leader.
    async fn pause(&self, leader: Leader, deadline: Instant) {
        let until = deadline.min(Instant::now() + self.config.heartbeat);
        let _ = tokio::time::timeout_at(until, self.leader_is_not(leader)).await;
    }

    async fn leader_is_not(&self, leader: Leader) {
        let mut servers = self.raft.server_metrics();
        // Without a sender this member has ended, and leads nowhere.
        let _ = servers.wait_for(|metrics| leader_in(metrics) != Some(leader)).await;
    }

    async fn call(&self, leader: Leader, request: &Request, timeout: Duration) -> Result<Response, RpcError> {
        if leader.node != self.us {
            return self.network.call(leader.peer, request.to_message(), timeout).await;
        }
        let timed_out = || RpcError::Transport(TransportError::Timeout(leader.peer));
        let answer = async {
            match request {
                Request::Forward(command) => self.write(command.clone()).await,
                Request::ReadIndex => self.read_index().await,
                Request::Change(change) => Box::pin(self.change(change)).await,
                Request::Append(_) | Request::Vote(_) | Request::Part(_) => None,
            }
        };
        tokio::time::timeout(timeout, answer).await.ok().flatten().ok_or_else(timed_out)
    }

    /// Answers another member. Without an answer it will ask again. What is rare is boxed: the future of what
    /// is frequent is allocated and moved around for every message.
    pub(super) async fn respond(&self, from: u64, request: Request) -> Option<Response> {
        match request {
            Request::Append(request) => self.raft.append_entries(request).await.ok().map(Response::Append),
            Request::Vote(request) => self.raft.vote(request).await.ok().map(Response::Vote),
            Request::Part(part) => Box::pin(self.snapshots.take(&self.raft, from, part)).await,
            // No member proposes in the name of another.
            Request::Forward(command) if command.origin != from => None,
            Request::Forward(_) | Request::ReadIndex | Request::Change(_) if !self.leads() => {
                Some(Response::NotLeader)
            }
            Request::Forward(command) => self.write(command).await,
            Request::ReadIndex => self.read_index().await,
            Request::Change(change) => Box::pin(self.change(&change)).await,
        }
    }

    /// Puts a bundle into the log, as the leader.
    async fn write(&self, mut command: Command) -> Option<Response> {
        command.at = self.view.clock.now();
        match self.raft.client_write(command).await {
            Ok(response) => match response.data {
                Applied::Outcomes(outcomes) => Some(Response::Outcomes(outcomes)),
                Applied::Refused(refusal) => Some(Response::Refused(refusal)),
                Applied::Nothing => Some(Response::NotNow),
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Some(Response::NotNow),
            Err(_) => None,
        }
    }

    /// Makes sure that this member leads, and says what was committed before.
    async fn read_index(&self) -> Option<Response> {
        match self.raft.get_read_log_id().await {
            Ok((read, _)) => Some(Response::ReadIndex(read.map_or(0, |log_id| log_id.index))),
            Err(_) => Some(Response::NotNow),
        }
    }
}

fn leader_in(metrics: &RaftServerMetrics<u64, NodeInfo>) -> Option<Leader> {
    let node = metrics.current_leader?;
    let info = metrics.membership_config.membership().get_node(&node)?;
    Some(Leader { node, peer: info.peer() })
}
