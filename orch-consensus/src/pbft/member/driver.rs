//! The loop: feeds inputs to the replica and executes its effects.

mod effects;
mod status;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use orch_core::{
    consensus::{ConsensusError, MemberRole, MembershipChange},
    model::Timestamp,
    store::Revision,
    transport::{Incoming, Transport},
};
use tokio::sync::{mpsc, watch};

use self::status::StatusReport;
use super::{
    calls::{Call, Reply, Shared, Waiting},
    evidence,
    journal::{self, Journal, Progress},
    outbox::Outbox,
    priority_queues::{PriorityQueues, Sender},
    verifier::Verifier,
};
use crate::pbft::core::membership::Change;
use crate::pbft::core::{
    ids::{Digest, PublicKey},
    io::{Answer, Effect, Input, Moment, Refusal},
    message::Message,
    replica::Replica,
    statement::Claim,
};

/// Messages that are received before any is worked on.
const MESSAGES_OF_TURN: usize = 512;
/// The same in bytes.
const BYTES_OF_TURN: usize = 16 << 20;
/// Messages of the slow queue in one turn.
const SLOW_OF_TURN: usize = 64;
/// Calls of one turn.
const CALLS_OF_TURN: usize = 4096;
/// Number of times that the loop yields while callers come in.
const GATHERINGS_MAX: usize = 16;
/// Number of times that it does so in vain.
const VAIN_GATHERINGS_MAX: usize = 3;
/// Longest wait of commands for those that are on their way, in batch delays.
const ROUNDS_DELAY_MAX: u32 = 8;

/// Context of the loop.
pub(super) struct DriverContext {
    pub(super) replica: Replica,
    pub(super) group: Digest,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) outbox: Outbox,
    /// None where nothing is kept.
    pub(super) journal: Option<Journal>,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    pub(super) genesis: BTreeSet<PublicKey>,
    pub(super) clients: BTreeSet<PublicKey>,
    pub(super) message_bytes_max: usize,
    pub(super) log_queue_bytes_max: usize,
    pub(super) batch_commands_max: usize,
    pub(super) batch_delay: Duration,
    pub(super) shutdown_timeout: Duration,
}

/// The two clocks of a [`Moment`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(super) fn now(self) -> Moment {
        Moment { elapsed: self.start.elapsed(), wall: Timestamp::now() }
    }

    fn at(self, elapsed: Duration) -> tokio::time::Instant {
        (self.start + elapsed).into()
    }
}

/// The replica and everything around it.
pub(super) struct Driver {
    context: DriverContext,
    /// Time of this turn.
    now: Moment,
    verifier: Verifier,
    queues: PriorityQueues,
    waiting: Waiting,
    inputs: VecDeque<Input>,
    effects: Vec<Effect>,
    /// Signatures to check: of what agreement rests on, and of requests.
    checks: Vec<(u64, Vec<Claim>)>,
    request_checks: Vec<(u64, Vec<Claim>)>,
    /// Changes of the log that wait to be handed over, and how many there were.
    changes: Vec<journal::Change>,
    appended: u64,
    progress: Progress,
    held: VecDeque<(u64, Message)>,
    /// Commands that wait for others to share a batch with, since when, and how many the replica has.
    open: Vec<(u64, Bytes)>,
    open_since: Duration,
    in_flight: usize,
    /// Time at which the replica was last given commands, and the time that it took to have some executed.
    handed_over: Duration,
    round: Duration,
    /// Answers for callers.
    answers: Vec<(u64, Result<Answer, Refusal>)>,
    /// Number of callers that the last turn answered.
    answered: usize,
    /// Latest time of the end, after a shutdown was requested.
    stop_at: Option<Duration>,
    reported: StatusReport,
}

impl Driver {
    /// A loop that goes on with the effects of a recovery.
    pub(super) fn new(context: DriverContext, effects: Vec<Effect>) -> Self {
        let mut driver = Self {
            now: context.clock.now(),
            verifier: Verifier::default(),
            queues: PriorityQueues::default(),
            waiting: Waiting::default(),
            inputs: VecDeque::from([Input::Tick]),
            effects,
            checks: Vec::new(),
            request_checks: Vec::new(),
            changes: Vec::new(),
            appended: 0,
            progress: Progress::default(),
            held: VecDeque::new(),
            open: Vec::new(),
            open_since: Duration::ZERO,
            in_flight: 0,
            handed_over: Duration::ZERO,
            round: Duration::ZERO,
            answers: Vec::new(),
            answered: 0,
            stop_at: None,
            reported: StatusReport::default(),
            context,
        };
        driver.meet_members();
        driver.carry_out();
        driver
    }

    /// Runs until the shutdown, or until the last handle is dropped.
    pub(super) async fn run(mut self, mut calls: mpsc::UnboundedReceiver<Call>) {
        let transport = self.context.transport.clone();
        let mut journal = self.context.journal.as_ref().map(Journal::progress);
        let mut incoming = transport.incoming();
        let mut open = true;
        let mut taken = Vec::new();
        self.run_until_idle().await;
        while !self.is_over() {
            let deadline = self.deadline();
            let busy = !self.queues.is_empty();
            let stalled = self.is_stalled();
            tokio::select! {
                biased;
                alive = changed(&mut journal) => {
                    if !alive {
                        self.progress.failed = true;
                        break;
                    }
                }
                _ = calls.recv_many(&mut taken, CALLS_OF_TURN), if !stalled && self.stop_at.is_none() => {
                    if taken.is_empty() {
                        // The last handle was dropped.
                        break;
                    }
                }
                message = &mut incoming, if open && !stalled => {
                    incoming = transport.incoming();
                    match message {
                        Some(message) => { self.sort(message); }
                        None => open = self.on_transport_closed(),
                    }
                }
                () = tokio::task::yield_now(), if busy && !stalled => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
            if open && !stalled {
                let (mut count, mut bytes) = (0, 0);
                while count < MESSAGES_OF_TURN && bytes < BYTES_OF_TURN {
                    let Poll::Ready(message) = futures_util::poll!(&mut incoming) else { break };
                    incoming = transport.incoming();
                    let Some(message) = message else {
                        open = self.on_transport_closed();
                        break;
                    };
                    count += 1;
                    bytes += self.sort(message);
                }
            }
            self.gather(&mut calls, &mut taken).await;
            if let Some(journal) = &mut journal {
                self.progress.clone_from(&journal.borrow_and_update());
            }
            self.turn(&mut taken).await;
        }
        self.stop().await;
    }

    fn is_over(&self) -> bool {
        let stopped =
            self.stop_at.is_some_and(|at| self.waiting.is_empty() || self.context.clock.now().elapsed >= at);
        stopped || self.progress.failed
    }

    /// Nothing is received while too much waits to be written.
    fn is_stalled(&self) -> bool {
        let waiting = self.context.journal.as_ref().map_or(0, Journal::waiting_bytes);
        waiting > self.context.log_queue_bytes_max
    }

    fn deadline(&self) -> tokio::time::Instant {
        let mut at = self.context.replica.deadline();
        if !self.open.is_empty() {
            at = at.min(self.late_at());
        }
        self.context.clock.at(self.stop_at.map_or(at, |stop| stop.min(at)))
    }

    fn on_transport_closed(&mut self) -> bool {
        tracing::error!("the transport is closed; this member receives no more messages");
        self.reported.problems.transport_closed = true;
        false
    }

    /// Callers that were just answered are about to ask again, and others with them: waiting for those that
    /// can run now makes one batch of them instead of several.
    async fn gather(&mut self, calls: &mut mpsc::UnboundedReceiver<Call>, taken: &mut Vec<Call>) {
        let expected = std::mem::take(&mut self.answered).min(CALLS_OF_TURN);
        let (mut rounds, mut vain) = (0, 0);
        while !self.is_stalled() && self.stop_at.is_none() {
            let before = taken.len();
            while taken.len() < CALLS_OF_TURN
                && let Ok(call) = calls.try_recv()
            {
                taken.push(call);
            }
            vain += usize::from(taken.len() == before);
            if taken.len() >= expected || rounds >= GATHERINGS_MAX || vain > VAIN_GATHERINGS_MAX {
                return;
            }
            rounds += 1;
            tokio::task::yield_now().await;
        }
    }

    /// Sorts a message into its queue, and returns its size.
    fn sort(&mut self, incoming: Incoming) -> usize {
        let Incoming { from, message, .. } = incoming;
        let (from, size) = (PublicKey(*from.as_bytes()), message.len());
        if size > self.context.message_bytes_max {
            tracing::warn!(?from, size, "a message is too large and is dropped");
            return size;
        }
        let context = &self.context;
        let known = context.replica.membership().by_key(&from).is_some()
            || context.genesis.contains(&from)
            || context.clients.contains(&from);
        self.queues.push(from, if known { Sender::Known } else { Sender::NonMember }, message);
        size
    }

    async fn turn(&mut self, calls: &mut Vec<Call>) {
        self.now = self.context.clock.now();
        self.release();
        while let Some((from, message)) = self.queues.next_fast() {
            self.read(from, message);
        }
        for _ in 0..SLOW_OF_TURN {
            let Some((from, message)) = self.queues.next_slow() else { break };
            self.read(from, message);
        }
        self.take_calls(calls);
        self.propose();
        self.inputs.push_back(Input::Tick);
        self.run_until_idle().await;
    }

    fn read(&mut self, from: PublicKey, message: Bytes) {
        match Message::from_wire(message) {
            Ok(message) => {
                self.inputs.push_back(Input::Message(from, message));
                self.step_all();
            }
            Err(error) => tracing::debug!(?from, %error, "a message cannot be read"),
        }
    }

    fn take_calls(&mut self, calls: &mut Vec<Call>) {
        for call in calls.drain(..) {
            match call {
                Call::Propose(command, reply, permit) => {
                    let token = self.waiting.command(reply, permit);
                    if self.open.is_empty() {
                        self.open_since = self.now.elapsed;
                    }
                    self.open.push((token, command));
                }
                Call::Barrier(reply, permit) => {
                    let token = self.waiting.revision(reply, permit);
                    self.inputs.push_back(Input::Barrier(token));
                }
                Call::ChangeMembers(change, reply, permit) => match self.change_of(change) {
                    Ok(Some(change)) => {
                        let token = self.waiting.revision(reply, permit);
                        self.inputs.push_back(Input::ChangeMembers(token, change));
                    }
                    Ok(None) => answer(reply, Ok(Revision(self.context.replica.executed().0))),
                    Err(error) => answer(reply, Err(error)),
                },
                Call::Shutdown => {
                    self.stop_at = Some(self.now.elapsed + self.context.shutdown_timeout);
                }
            }
        }
    }

    /// Time at which commands are handed over although others are on their way: where these take long, so do
    /// many small batches.
    fn late_at(&self) -> Duration {
        let delay = self.context.batch_delay;
        self.open_since + self.round.clamp(delay, ROUNDS_DELAY_MAX * delay)
    }

    /// Hands over the commands that wait, unless others are on their way and these may still become more. The
    /// replica would propose them the moment those are executed, and callers that are answered then would
    /// have to wait for the next batch: batches would stay half as large as they can be.
    fn propose(&mut self) {
        let full = self.open.len() >= self.context.batch_commands_max;
        let late = self.now.elapsed >= self.late_at();
        if self.open.is_empty() || !(self.in_flight == 0 || full || late) {
            return;
        }
        self.in_flight += self.open.len();
        self.handed_over = self.now.elapsed;
        self.context.replica.propose_all(self.now, self.open.drain(..), &mut self.effects);
        self.carry_out();
    }

    /// The change as the replica knows it; none where it is as asked for already.
    fn change_of(&self, change: MembershipChange) -> Result<Option<Change>, ConsensusError> {
        let members = self.context.replica.membership().members();
        match change {
            MembershipChange::Add { member: name, peer, role: MemberRole::Voter, .. } => {
                let key = PublicKey(*peer.as_bytes());
                let there = members.iter().any(|member| name == *member.name && member.key == key);
                Ok((!there).then(|| Change::Add { key, name: name.to_string() }))
            }
            MembershipChange::Remove { member: name, .. } => {
                let member = members.iter().find(|member| name == *member.name);
                Ok(member.map(|member| Change::Remove { id: member.id }))
            }
            MembershipChange::Add { .. } => Err(ConsensusError::Unsupported("a member that does not vote")),
            _ => Err(ConsensusError::Unsupported("this change of members")),
        }
    }

    /// Works until nothing is left to do, and shows the result.
    async fn run_until_idle(&mut self) {
        loop {
            self.step_all();
            self.context.outbox.flush().await;
            self.answer();
            if !self.checks.is_empty() {
                let checks = std::mem::take(&mut self.checks);
                self.check(checks);
            } else if !self.request_checks.is_empty() {
                let checks = std::mem::take(&mut self.request_checks);
                self.check(checks);
            } else {
                break;
            }
            self.now = self.context.clock.now();
        }
        if let Some(journal) = &self.context.journal {
            journal.submit(&mut self.changes);
        }
        self.say();
    }

    fn step_all(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            self.context.replica.step(self.now, input, &mut self.effects);
            self.carry_out();
        }
    }

    async fn stop(mut self) {
        self.waiting.give_up();
        if let Some(journal) = self.context.journal.take() {
            journal.submit(&mut self.changes);
            // Writing blocks, and is worth waiting for.
            let _ = tokio::task::spawn_blocking(move || journal.finish()).await;
        }
        let last_error =
            self.progress.last_error.filter(|_| self.progress.failed).unwrap_or_else(|| "shut down".into());
        self.context
            .shared
            .change_status(|status| (status.leader, status.last_error) = (false, Some(last_error)));
    }
}

fn answer<T>(reply: Reply<T>, answer: Result<T, ConsensusError>) {
    // A caller that dropped the future does not want it.
    let _ = reply.send(answer);
}

/// Waits for progress of the log, for ever where there is none. False when it has ended by itself.
async fn changed(journal: &mut Option<watch::Receiver<Progress>>) -> bool {
    match journal {
        Some(journal) => journal.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}
