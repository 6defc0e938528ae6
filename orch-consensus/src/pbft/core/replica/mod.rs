//! [`Replica`]: the protocol as a function of its inputs. References are to Castro and Liskov, "Practical
//! Byzantine Fault Tolerance and Proactive Recovery", TOCS 2002 ("TOCS"), and to their OSDI 1999 paper, whose
//! signed view change this is.

mod agree;
mod checkpoint;
mod evidence;
mod execute;
#[cfg(feature = "simulation")]
mod interceptor;
mod jobs;
mod local;
mod new_view;
mod pool;
mod propose;
mod reads;
mod recover;
mod status;
mod transfer;
mod view_change;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use orch_core::consensus::StateMachine;

pub use recover::RecoverError;

use self::{
    checkpoint::Checkpoints, evidence::Exposed, jobs::Jobs, local::Local, pool::Pool, reads::Reads,
    transfer::Transfer, view_change::Changing,
};
use super::{
    batch::Batch,
    config::{Config, ConfigError},
    history::History,
    ids::{Digest, Epoch, PublicKey, ReplicaId, Seq, View},
    io::{Effect, Event, Input, Moment, To},
    log::Log,
    membership::Membership,
    message::{EpochStep, Message, NewView, StableProof},
    record::Record,
    service::Service,
    statement::Misbehaviour,
};

/// Proposals that are kept of each replica until the view begins that they are for. They come again if they
/// are more.
const EARLY_PROPOSALS_MAX: usize = 8;

/// One member of a group that runs PBFT, without any input or output of its own.
///
/// The host feeds it with [`Replica::step`] and executes the effects in their order: it keeps the log,
/// signs what [`Effect::Publish`] and [`Effect::Submit`] ask for, checks signatures, sends messages and wakes
/// the replica at [`Replica::deadline`]. Two rules of the host carry the safety of the group:
///
/// 1. a message of [`Effect::Publish`] leaves, and comes back as [`Input::Own`], only when the log changes
///    that it depends on are as durable as the group was promised;
/// 2. [`Input::Message`] names the sender that the transport has authenticated.
#[derive(Debug)]
pub struct Replica {
    config: Config,
    key: PublicKey,
    /// Our number in the current membership; none while we are no member.
    me: Option<ReplicaId>,
    service: Service,
    history: History,
    log: Log,
    checkpoints: Checkpoints,
    /// The last stable checkpoint that we have the state of.
    stable: Option<Arc<StableProof>>,
    /// Steps from the first membership to the current one.
    steps: Vec<EpochStep>,

    view: View,
    /// Set on the way to `view`.
    changing: Option<Changing>,
    /// Views that failed since something was last executed.
    failures: u32,
    /// NEW-VIEW of `view`.
    new_view: Option<Arc<NewView>>,
    view_changes: view_change::Collected,
    /// Messages for views to come, by sender.
    early: BTreeMap<ReplicaId, VecDeque<Message>>,

    /// The last sequence number that we proposed, or that the view began with.
    proposed: Seq,
    /// The last sequence number that we prepared or executed, ever.
    prepared_max: Seq,
    pool: Pool,
    local: Local,
    reads: Reads,
    transfer: Option<Transfer>,
    jobs: Jobs,
    exposed: Exposed,

    /// Number of changes of the log so far.
    appended: u64,
    status_at: Duration,
    /// Time at which each peer was last sent what it lacks.
    helped: BTreeMap<PublicKey, Duration>,
    /// Time of the last execution, or of the beginning of the view or epoch.
    progress_at: Duration,
    #[cfg(feature = "simulation")]
    interceptor: interceptor::Interceptor,
}

/// Initial state of a replica.
#[derive(Debug)]
pub struct Setup {
    /// Parameters.
    pub config: Config,
    /// The first membership of the group: everything later is verified from it.
    pub genesis: Membership,
    /// Our public key.
    pub key: PublicKey,
    /// Incarnation of this replica as a client: higher than every one before. The time of the start in
    /// milliseconds will do.
    pub session: u64,
    /// The machine, in the state that it has in every replica at the beginning.
    pub machine: Box<dyn StateMachine>,
}

impl Replica {
    /// A replica as it is at the beginning of the group. [`Replica::recover`] makes it go on from its log.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(setup: Setup) -> Result<Self, ConfigError> {
        let Setup { config, genesis, key, session, machine } = setup;
        config.validate()?;
        #[cfg(feature = "simulation")]
        let config = config.seeded_fault.map_or(config.clone(), |fault| fault.configure(config));
        let replicas = genesis.members().len();
        Ok(Self {
            me: genesis.by_key(&key).map(|member| member.id),
            log: Log::new(Seq::ZERO, config.window, replicas),
            service: Service::new(machine, genesis),
            history: History::new(),
            checkpoints: Checkpoints::default(),
            stable: None,
            steps: Vec::new(),
            view: View::default(),
            changing: None,
            failures: 0,
            new_view: None,
            view_changes: view_change::Collected::default(),
            early: BTreeMap::new(),
            proposed: Seq::ZERO,
            prepared_max: Seq::ZERO,
            pool: Pool::default(),
            local: Local::new(session),
            reads: Reads::default(),
            transfer: None,
            jobs: Jobs::default(),
            exposed: Exposed::default(),
            appended: 0,
            status_at: Duration::ZERO,
            helped: BTreeMap::new(),
            progress_at: Duration::ZERO,
            #[cfg(feature = "simulation")]
            interceptor: interceptor::Interceptor::default(),
            config,
            key,
        })
    }

    /// Handles one input and appends the effects.
    pub fn step(&mut self, now: Moment, input: Input, out: &mut Vec<Effect>) {
        #[cfg(feature = "simulation")]
        if let Some(fault) = self.config.seeded_fault {
            return self.step_wrongly(fault, now, input, out);
        }
        self.handle(now, input, out);
    }

    fn handle(&mut self, now: Moment, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Message(from, message) => self.receive(now, from, message, out),
            Input::Own(message) => self.receive_own(now, message, out),
            Input::Verified(job, bad) => self.verified(now, job, &bad, out),
            Input::Propose(token, command) => self.local_propose(now, token, command, out),
            Input::Barrier(token) => self.local_barrier(now, token, out),
            Input::ChangeMembers(token, change) => self.local_change(now, token, change, out),
            Input::Tick => {}
        }
        self.tick(now, out);
    }

    /// Handles commands that came together, as [`Input::Propose`] does each. They share a batch where they
    /// fit.
    pub fn propose_all(
        &mut self,
        now: Moment,
        commands: impl IntoIterator<Item = (u64, Bytes)>,
        out: &mut Vec<Effect>,
    ) {
        for (token, command) in commands {
            self.local_propose(now, token, command, out);
        }
        self.tick(now, out);
    }

    /// Latest time of the next [`Replica::step`] with [`Input::Tick`], on the clock of [`Moment::elapsed`].
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let timers = [
            Some(self.status_at),
            self.suspicion_at(),
            self.relay_at(),
            self.batch_at(),
            self.reads.deadline(),
            self.transfer.as_ref().map(Transfer::deadline),
            self.changing.as_ref().and_then(|changing| changing.deadline),
        ];
        timers.into_iter().flatten().min().unwrap_or(self.status_at)
    }

    /// The view, and whether it has begun here.
    #[must_use]
    pub fn view(&self) -> (View, bool) {
        (self.view, self.changing.is_none())
    }

    /// Replicas with a vote.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        self.service.membership()
    }

    /// The last sequence number that was executed here.
    #[must_use]
    pub fn executed(&self) -> Seq {
        self.service.executed()
    }

    /// The hash chain over all batches up to [`Replica::executed`]: equal on replicas that executed the same.
    #[must_use]
    pub fn chain(&self) -> Digest {
        self.service.chain()
    }

    /// The last stable checkpoint here.
    #[must_use]
    pub fn stable(&self) -> Seq {
        self.log.low()
    }

    /// The machine as it is after [`Replica::executed`].
    #[must_use]
    pub fn machine(&self) -> &dyn StateMachine {
        self.service.machine()
    }

    /// Proofs of misbehaviour.
    #[must_use]
    pub fn evidence(&self) -> Vec<Arc<Misbehaviour>> {
        self.exposed.all()
    }

    /// True when this replica has a vote.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.me.is_some()
    }

    /// True when this replica leads a view that has begun.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.changing.is_none() && self.is_primary()
    }

    /// The batches that are still here and were executed after `after`, with their sequence numbers. For
    /// observers.
    pub fn decided_since(&self, after: Seq) -> impl Iterator<Item = (Seq, &Arc<Batch>)> {
        self.history.since(after)
    }

    fn is_primary(&self) -> bool {
        self.me == Some(self.membership().primary(self.view).id)
    }

    fn epoch(&self) -> Epoch {
        self.membership().epoch()
    }

    fn quorum(&self) -> usize {
        self.config.enough(self.membership().quorum().quorum())
    }

    /// The last sequence number that may be agreed on: within the window, and not beyond the end of the
    /// epoch.
    fn high(&self) -> Seq {
        let high = self.log.high();
        self.service.successor().map_or(high, |(end, _)| high.min(*end))
    }

    /// The timeout after as many failed views as there were.
    fn timeout(&self) -> Duration {
        let doubled = self.config.request_timeout.saturating_mul(1 << self.failures.min(16));
        doubled.min(self.config.request_timeout_max)
    }

    fn append(&mut self, record: Record, out: &mut Vec<Effect>) {
        self.appended += 1;
        out.push(Effect::Append(record));
    }

    /// Sends a message that stands for what the log holds by now.
    fn publish(&self, message: Message, out: &mut Vec<Effect>) {
        out.push(Effect::Publish { message, after: self.appended });
    }

    fn send(&self, to: ReplicaId, message: Message, out: &mut Vec<Effect>) {
        if let Some(member) = self.membership().member(to) {
            out.push(Effect::Send(To::One(member.key), message));
        }
    }

    fn receive(&mut self, now: Moment, from: PublicKey, message: Message, out: &mut Vec<Effect>) {
        let member = self.membership().by_key(&from).map(|member| member.id);
        match message {
            Message::Request(request) => self.on_request(now, from, request, out),
            Message::Fetch(fetch) => {
                let supply = self.supply(fetch);
                out.push(Effect::Send(To::One(from), Message::Supply(supply)));
            }
            // A peer that was a member when we last looked may know what came after.
            Message::Stable(proof) => self.on_stable_proof(now, from, proof, out),
            Message::Supply(supply) => self.on_supply(now, from, supply, out),
            Message::Status(status) => self.on_status(now, from, member, status, out),
            message => {
                if let Some(member) = member {
                    self.on_member_message(now, member, message, out);
                }
            }
        }
    }

    fn on_member_message(&mut self, now: Moment, from: ReplicaId, message: Message, out: &mut Vec<Effect>) {
        if self.hold_early(from, &message) {
            return;
        }
        match message {
            Message::PrePrepare(batch, vote) => self.on_pre_prepare(now, from, batch, vote, out),
            Message::Vote(vote) => self.on_vote(now, from, vote, out),
            Message::Checkpoint(vote) => self.on_checkpoint(now, from, vote, false, out),
            Message::ViewChange(change) => self.on_view_change(now, from, change, out),
            Message::NewView(new) => self.on_new_view(now, from, new, out),
            Message::Committed(certificate) => self.on_committed(now, from, certificate, out),
            Message::ReadQuery(id) => {
                let answer = Message::ReadAnswer(id, self.prepared_max);
                self.send(from, answer, out);
            }
            Message::ReadAnswer(id, prepared) => self.on_read_answer(now, from, id, prepared, out),
            Message::Reply(..)
            | Message::Request(_)
            | Message::Stable(_)
            | Message::Status(_)
            | Message::Fetch(_)
            | Message::Supply(_) => {}
        }
    }

    fn receive_own(&mut self, now: Moment, message: Message, out: &mut Vec<Effect>) {
        let Some(me) = self.me else { return };
        match message {
            Message::PrePrepare(_, vote) | Message::Vote(vote) => self.count_vote(now, me, vote, true, out),
            Message::Checkpoint(vote) => self.on_checkpoint(now, me, vote, true, out),
            Message::ViewChange(change) => self.collect_view_change(now, change, out),
            Message::NewView(new) => self.enter_own_view(now, new, out),
            _ => {}
        }
    }

    /// Keeps a message for a view that has not begun here, and says whether it did.
    fn hold_early(&mut self, from: ReplicaId, message: &Message) -> bool {
        let (Message::PrePrepare(_, vote) | Message::Vote(vote)) = message else { return false };
        let for_later = vote.epoch == self.epoch()
            && (vote.view > self.view || (vote.view == self.view && self.changing.is_some()));
        // Commit votes count whatever the view.
        if !for_later || vote.phase == super::statement::Phase::Commit {
            return false;
        }
        let leads = self.membership().primary(vote.view).id == from;
        if vote.replica != from || (matches!(message, Message::PrePrepare(..)) && !leads) {
            return true;
        }
        let held = self.early.entry(from).or_default();
        let proposals = held.iter().filter(|message| matches!(message, Message::PrePrepare(..))).count();
        if proposals >= EARLY_PROPOSALS_MAX && matches!(message, Message::PrePrepare(..)) {
            return true;
        }
        let window = usize::try_from(self.config.window).unwrap_or(usize::MAX);
        if held.len() >= window {
            held.pop_front();
        }
        held.push_back(message.clone());
        true
    }

    /// Everything that follows from the time and from what the last input changed.
    fn tick(&mut self, now: Moment, out: &mut Vec<Effect>) {
        self.run_reads(now, out);
        self.run_transfer(now, out);
        self.run_timers(now, out);
        self.send_bundles(now, out);
        self.propose(now, out);
        if now.elapsed >= self.status_at {
            self.status_at = now.elapsed + self.config.status_interval;
            self.send_status(now, out);
        }
    }

    fn event(out: &mut Vec<Effect>, event: Event) {
        out.push(Effect::Event(event));
    }
}
