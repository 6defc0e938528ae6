//! Proposals on their way: what waits is bundled, several bundles are under way together, and each is sent
//! until its outcome is known.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use orch_core::{
    consensus::{Committed, ConsensusError},
    model::Timestamp,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    node::{ForwardError, Node},
    sessions::WINDOW,
    types::{Command, Commands, Outcomes, Refusal},
    wire::{Request, Response},
};

/// A command and who waits for its outcome.
pub(super) struct Proposal {
    pub(super) command: Bytes,
    pub(super) reply: oneshot::Sender<Result<Committed, ConsensusError>>,
}

/// Proposals that share an entry.
struct Bundle {
    number: u64,
    session: u64,
    command: Command,
    replies: Vec<oneshot::Sender<Result<Committed, ConsensusError>>>,
}

/// Sends bundles until the queue is closed and empty.
pub(super) struct Proposer {
    node: Arc<Node>,
    session: u64,
    next: u64,
    /// The open numbers of this session: never more than [`WINDOW`] apart.
    open: BTreeSet<u64>,
    /// The last bundle had more than one command.
    crowded: bool,
}

impl Proposer {
    pub(super) fn new(node: Arc<Node>) -> Self {
        // A later incarnation has to have a greater number. If the clock was set back, the group reports it.
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let seen = node.view.session.load(Ordering::Relaxed);
        let session = u64::try_from(nanos).unwrap_or(u64::MAX).max(seen + 1);
        Self { node, session, next: 0, open: BTreeSet::new(), crowded: false }
    }

    /// Runs until `closing` is set and everything that was accepted is answered.
    pub(super) async fn run(
        mut self,
        mut queue: mpsc::Receiver<Proposal>,
        mut closing: watch::Receiver<bool>,
    ) {
        let mut under_way = FuturesUnordered::new();
        let (mut closed, mut drained) = (false, false);
        while !(drained && under_way.is_empty()) {
            tokio::select! {
                biased;
                Some((bundle, answer)) = under_way.next(), if !under_way.is_empty() => {
                    if let Some(again) = self.complete(bundle, answer) {
                        under_way.push(carry(self.node.clone(), again));
                    }
                }
                () = until_closing(&mut closing), if !closed => {
                    closed = true;
                    queue.close();
                }
                first = queue.recv(), if !drained && self.has_room() => match first {
                    Some(first) => {
                        // Others that are about to propose get into the same entry, where there are others.
                        if self.crowded {
                            tokio::task::yield_now().await;
                        }
                        let bundle = self.bundle(first, &mut queue);
                        under_way.push(carry(self.node.clone(), bundle));
                    }
                    None => drained = true,
                },
            }
        }
    }

    fn has_room(&self) -> bool {
        let first = self.open.first().copied().unwrap_or(self.next);
        self.open.len() < self.node.config.in_flight_max.get() && self.next < first + WINDOW
    }

    /// `first` and what else waits, within the bounds.
    fn bundle(&mut self, first: Proposal, queue: &mut mpsc::Receiver<Proposal>) -> Bundle {
        let config = &self.node.config;
        let (mut bytes, mut commands, mut replies) = (0, Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(Proposal { command, reply }) = next {
            bytes += command.len();
            commands.push(command);
            replies.push(reply);
            let full =
                commands.len() >= config.bundle_commands_max.get() || bytes >= config.bundle_bytes_max.get();
            next = if full { None } else { queue.try_recv().ok() };
        }
        self.crowded = commands.len() > 1;
        let commands = Commands::pack(commands.iter());
        self.name(commands, replies)
    }

    fn name(
        &mut self,
        commands: Commands,
        replies: Vec<oneshot::Sender<Result<Committed, ConsensusError>>>,
    ) -> Bundle {
        let (number, session) = (self.next, self.session);
        self.next += 1;
        self.open.insert(number);
        let floor = self.open.first().copied().unwrap_or(number);
        let command = Command { at: Timestamp::ZERO, origin: self.node.us, session, number, floor, commands };
        Bundle { number, session, command, replies }
    }

    /// Answers those who wait, or says what to send instead.
    fn complete(&mut self, bundle: Bundle, answer: Result<Response, ForwardError>) -> Option<Bundle> {
        if bundle.session == self.session {
            self.open.remove(&bundle.number);
        }
        let operation = "replicating a proposal";
        let failure = |why: &str, begun| ForwardError { why: why.into(), begun, fatal: false };
        let error = match answer {
            Ok(Response::Outcomes(Outcomes { revision, each })) if each.len() == bundle.replies.len() => {
                for (reply, outcome) in bundle.replies.into_iter().zip(each.iter()) {
                    // A caller that dropped the future does not want it.
                    let _ = reply.send(Ok(Committed { revision, outcome: outcome.clone() }));
                }
                return None;
            }
            // It was refused at the first try, so it was never applied and never will be: a new name, then.
            Ok(Response::Refused(Refusal::Stale { session })) => {
                if session >= self.session {
                    (self.session, self.next) = (session + 1, 0);
                    self.open.clear();
                }
                return Some(self.name(bundle.command.commands, bundle.replies));
            }
            Ok(Response::Refused(Refusal::NotMember)) => {
                failure("this replica is no member of the group", false)
            }
            Ok(Response::Impossible(why)) => failure(&why, true),
            Ok(_) => failure("the leader answered something else", true),
            Err(failure) => failure,
        }
        .into_error(operation);
        for reply in bundle.replies {
            let _ = reply.send(Err(error.clone()));
        }
        None
    }
}

/// Waits until it is time to close.
pub(super) async fn until_closing(closing: &mut watch::Receiver<bool>) {
    // Without a sender there are no callers left.
    let _ = closing.wait_for(|closing| *closing).await;
}

async fn carry(node: Arc<Node>, bundle: Bundle) -> (Bundle, Result<Response, ForwardError>) {
    let deadline = Instant::now() + node.config.proposal_timeout;
    let request = Request::Forward(bundle.command.clone());
    let answer = node.request_leader(&request, node.config.proposal_timeout).await;
    if let Ok(Response::Outcomes(outcomes)) = &answer {
        // A caller that was answered can read the outcome at this member. If it does not get here in time,
        // the outcome is known all the same.
        let mut applied = node.view.applied.subscribe();
        if *applied.borrow() < outcomes.revision.0 {
            let here = applied.wait_for(|applied| *applied >= outcomes.revision.0);
            let _ = tokio::time::timeout_at(deadline, here).await;
        }
    }
    (bundle, answer)
}
