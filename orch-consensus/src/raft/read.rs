//! Linearizable reads. Those that wait together share a round.

use std::{sync::Arc, time::Duration};

use orch_core::{consensus::ConsensusError, store::Revision};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    node::{ForwardError, Node},
    propose::until_closing,
    wire::{Request, Response},
};

pub(super) type Read = oneshot::Sender<Result<Revision, ConsensusError>>;

/// Answers reads until `closing` is set and those that were accepted are answered.
pub(super) async fn run(
    node: Arc<Node>,
    mut queue: mpsc::Receiver<Read>,
    mut closing: watch::Receiver<bool>,
) {
    let mut reads = Vec::new();
    let most = node.config.queue_max.get();
    loop {
        tokio::select! {
            biased;
            count = queue.recv_many(&mut reads, most) => if count == 0 { return },
            () = until_closing(&mut closing), if !queue.is_closed() => {
                queue.close();
                continue;
            }
        }
        let result = barrier(&node).await;
        for read in reads.drain(..) {
            // A caller that dropped the future does not want it.
            let _ = read.send(result.clone());
        }
    }
}

/// Waits until this member has what was committed anywhere before.
async fn barrier(node: &Node) -> Result<Revision, ConsensusError> {
    let deadline = Instant::now() + node.config.proposal_timeout;
    let index = match node.request_leader(&Request::ReadIndex, node.config.proposal_timeout).await {
        Ok(Response::ReadIndex(index)) => index,
        Ok(_) => return Err(ConsensusError::no_leader("the leader answered something else")),
        // A read changes nothing: that a leader began it does not matter.
        Err(failure) => {
            return Err(ForwardError { begun: false, ..failure }.into_error("reading the committed index"));
        }
    };
    let mut applied = node.view.applied.subscribe();
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let reached = tokio::time::timeout(left, applied.wait_for(|applied| *applied >= index)).await;
    match reached {
        Ok(Ok(applied)) => Ok(Revision(*applied)),
        _ => Err(ConsensusError::no_leader(format!("entry {index} did not arrive here in time"))),
    }
}
