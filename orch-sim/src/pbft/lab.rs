use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use orch_consensus::pbft::{
    Change, Config, Effect, Event, Input, Membership, Message, Moment, Phase, Replica, ReplicaId,
    SeededFault, Seq, Setup, To, wal,
};
use orch_core::model::Timestamp;

use super::{
    group::{self, EPOCH_MILLIS, member},
    invariants::{self, Observation},
    oracle::Oracle,
    registers::{Command, Registers},
};
use crate::{NodeId, history::KeyValueInput};

/// More is not what one input may lead to.
const EFFECTS_MAX: usize = 1000;
/// More messages do not follow from each other without an end, when no time passes.
const DELIVERIES_MAX: usize = 100_000;
/// More wake-ups do not follow in the time that a caller lets pass.
const TICKS_MAX: usize = 100_000;

/// A group whose messages move one by one, by a script. Disks and signatures take no time.
#[derive(Debug)]
pub(super) struct Lab {
    config: Config,
    genesis: Membership,
    instances: Vec<Instance>,
    queue: VecDeque<Envelope>,
    now: Duration,
    /// Instances of different groups do not observe each other.
    groups: Vec<usize>,
    /// Links and kinds of messages that are lost.
    lost: BTreeSet<(NodeId, NodeId, Option<&'static str>)>,
    next_token: u64,
    /// Events since they were last taken.
    pub(super) events: Vec<String>,
    oracle: Oracle,
}

/// A running replica. Twins are two with one key, and not correct.
#[derive(Debug)]
struct Instance {
    node: NodeId,
    correct: bool,
    replica: Option<Replica>,
    machine: Registers,
    log: Vec<u8>,
    incarnations: u64,
    /// It crashes in its next step, after so many effects.
    crash_after: Option<usize>,
    seen: Seq,
}

#[derive(Debug)]
struct Envelope {
    from: usize,
    to: usize,
    message: Arc<Message>,
}

/// Names of messages in scripts.
pub(super) const KINDS: [&str; 14] = [
    "request",
    "pre-prepare",
    "prepare",
    "commit",
    "checkpoint",
    "view-change",
    "new-view",
    "stable",
    "committed",
    "status",
    "fetch",
    "supply",
    "read",
    "reply",
];

/// The word for it in scripts.
pub(super) fn kind(message: &Message) -> &'static str {
    match message {
        Message::Request(_) => "request",
        Message::PrePrepare(..) => "pre-prepare",
        Message::Vote(vote) if vote.phase == Phase::Prepare => "prepare",
        Message::Vote(_) => "commit",
        Message::Checkpoint(_) => "checkpoint",
        Message::ViewChange(_) => "view-change",
        Message::NewView(_) => "new-view",
        Message::Stable(_) => "stable",
        Message::Committed(_) => "committed",
        Message::Status(_) => "status",
        Message::Fetch(_) => "fetch",
        Message::Supply(_) => "supply",
        Message::ReadQuery(_) | Message::ReadAnswer(..) => "read",
        Message::Reply(..) => "reply",
    }
}

impl Lab {
    /// `replicas` members. Of the `others`, those that are members run twice, and the rest may join.
    pub(super) fn new(replicas: usize, others: &[NodeId], fault: Option<SeededFault>) -> Self {
        let (twins, new): (Vec<NodeId>, Vec<NodeId>) = others.iter().partition(|other| **other < replicas);
        let once = (0..replicas).chain(new).map(|node| (node, !twins.contains(&node)));
        let twice = twins.iter().map(|node| (*node, false));
        Self::of(replicas, once.chain(twice), fault)
    }

    /// The first `replicas` nodes are members. What runs are these: a node, and whether it is correct.
    pub(super) fn of(
        replicas: usize,
        instances: impl IntoIterator<Item = (NodeId, bool)>,
        fault: Option<SeededFault>,
    ) -> Self {
        let instances: Vec<Instance> =
            instances.into_iter().map(|(node, correct)| Instance::new(node, correct)).collect();
        let byzantine: Vec<NodeId> =
            instances.iter().filter(|instance| !instance.correct).map(|instance| instance.node).collect();
        let config = Config {
            checkpoint_interval: 4,
            window: 8,
            batch_delay: Duration::ZERO,
            status_interval: Duration::from_millis(250),
            snapshot_bytes_min: 2000,
            seeded_fault: fault,
            ..Config::default()
        };
        let genesis = Membership::genesis((0..replicas).map(member))
            .unwrap_or_else(|error| panic!("this is no group: {error}"));
        let mut lab = Self {
            config,
            genesis,
            groups: vec![0; instances.len()],
            instances,
            queue: VecDeque::new(),
            now: Duration::ZERO,
            lost: BTreeSet::new(),
            next_token: 0,
            events: Vec::new(),
            oracle: Oracle::new(invariants::all(&byzantine)),
        };
        (0..lab.instances.len()).for_each(|at| lab.start(at));
        lab
    }

    pub(super) fn instances(&self) -> usize {
        self.instances.len()
    }

    pub(super) fn replica(&self, at: usize) -> Option<&Replica> {
        self.instances[at].replica.as_ref()
    }

    /// The first thing that a correct replica did and must not do.
    pub(super) fn broken(&self) -> Option<&str> {
        self.oracle.broken.as_deref()
    }

    /// Correct replicas that are running.
    pub(super) fn correct(&self) -> impl Iterator<Item = (usize, &Replica)> {
        let correct = self.instances.iter().enumerate().filter(|(_, instance)| instance.correct);
        correct.filter_map(|(at, instance)| Some((at, instance.replica.as_ref()?)))
    }

    /// Starts a replica with the log that it has.
    pub(super) fn start(&mut self, at: usize) {
        let machine = Registers::default();
        let instance = &mut self.instances[at];
        let node = instance.node;
        instance.machine = machine.clone();
        instance.incarnations += 1;
        let setup = Setup {
            config: self.config.clone(),
            genesis: self.genesis.clone(),
            key: group::key(node),
            session: instance.incarnations + u64::try_from(self.now.as_millis()).unwrap_or(0) + at as u64,
            machine: Box::new(machine),
        };
        let mut replica = Replica::new(setup).unwrap_or_else(|error| panic!("this is no replica: {error}"));
        let (image, sound) = wal::read(&Bytes::from(self.instances[at].log.clone()))
            .unwrap_or_else(|error| panic!("the log of {at} cannot be read: {error}"));
        self.instances[at].log.truncate(sound);
        let mut effects = Vec::new();
        if let Err(error) = replica.recover(self.moment(), image, &mut effects) {
            panic!("{at} cannot go on: {error}");
        }
        self.instances[at].seen = replica.executed();
        self.instances[at].replica = Some(replica);
        self.carry_out(at, effects);
    }

    /// Ends a replica. It keeps its log.
    pub(super) fn stop(&mut self, at: usize) {
        self.instances[at].replica = None;
    }

    /// Has a replica crash in its next step, when it has carried out so many of the effects, and start again
    /// at once. Of what it would have added to its log next, half is there.
    pub(super) fn crash_after(&mut self, at: usize, effects: usize) {
        self.instances[at].crash_after = Some(effects);
    }

    /// Has a replica propose a value.
    pub(super) fn propose(&mut self, at: usize, value: u64) {
        self.next_token += 1;
        let command = Command { id: value, input: KeyValueInput::Put { key: 0, value } };
        self.step(at, Input::Propose(self.next_token, command.to_bytes()));
    }

    /// Has a replica read.
    pub(super) fn read(&mut self, at: usize) {
        self.next_token += 1;
        self.step(at, Input::Barrier(self.next_token));
    }

    /// Has the operator of a replica vote for a node to become a member.
    pub(super) fn add(&mut self, at: usize, node: NodeId) {
        let (name, key) = member(node);
        self.change(at, Change::Add { key, name });
    }

    /// Has the operator of a replica vote for a member to leave.
    pub(super) fn remove(&mut self, at: usize, id: ReplicaId) {
        self.change(at, Change::Remove { id });
    }

    fn change(&mut self, at: usize, change: Change) {
        self.next_token += 1;
        self.step(at, Input::ChangeMembers(self.next_token, change));
    }

    /// Puts instances into groups that do not observe each other.
    pub(super) fn partition(&mut self, groups: Vec<usize>) {
        self.groups = groups;
    }

    /// Loses messages of a kind, or all, on a link from now on.
    pub(super) fn lose(&mut self, from: NodeId, to: NodeId, kind: Option<&'static str>) {
        self.lost.insert((from, to, kind));
    }

    /// Loses nothing from now on.
    pub(super) fn heal(&mut self) {
        self.lost.clear();
        self.groups.fill(0);
    }

    /// Delivers until nothing is on its way, and says how many messages of each kind arrived.
    pub(super) fn deliver(&mut self) -> BTreeMap<&'static str, usize> {
        let mut delivered = BTreeMap::new();
        for count in 0.. {
            assert!(count < DELIVERIES_MAX, "messages follow from messages without an end");
            if self.queue.is_empty() {
                break;
            }
            if let Some(name) = self.deliver_one(0) {
                *delivered.entry(name).or_insert(0) += 1;
            }
        }
        delivered
    }

    /// Messages on their way, in order: from which instance to which, and what.
    pub(super) fn on_its_way(&self) -> impl ExactSizeIterator<Item = (usize, usize, &Arc<Message>)> {
        self.queue.iter().map(|envelope| (envelope.from, envelope.to, &envelope.message))
    }

    /// Delivers one of the messages on their way, and says of what kind it was if it arrived.
    pub(super) fn deliver_one(&mut self, index: usize) -> Option<&'static str> {
        let Envelope { from, to, message } = self.queue.remove(index)?;
        let name = kind(&message);
        let lost = self.lost.contains(&(from, to, None)) || self.lost.contains(&(from, to, Some(name)));
        if self.groups[from] != self.groups[to] || lost || self.instances[to].replica.is_none() {
            return None;
        }
        let sender = group::key(self.instances[from].node);
        self.step(to, Input::Message(sender, (*message).clone()));
        Some(name)
    }

    /// Loses one of the messages on their way.
    pub(super) fn lose_one(&mut self, index: usize) {
        self.queue.remove(index);
    }

    /// Loses what is on its way on a link.
    pub(super) fn lose_link(&mut self, from: usize, to: usize) {
        self.queue.retain(|envelope| (envelope.from, envelope.to) != (from, to));
    }

    /// Sends one of the messages on their way once more.
    pub(super) fn repeat_one(&mut self, index: usize) {
        if let Some(Envelope { from, to, message }) = self.queue.get(index) {
            let again = Envelope { from: *from, to: *to, message: message.clone() };
            self.queue.push_back(again);
        }
    }

    /// Sends what an instance would not send by itself.
    pub(super) fn say(&mut self, from: usize, to: usize, message: Arc<Message>) {
        self.queue.push_back(Envelope { from, to, message });
    }

    /// Lets time pass and timers fire, without delivering anything.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for count in 0.. {
            assert!(count < TICKS_MAX, "a replica wants to be woken without an end");
            let due = (0..self.instances.len())
                .filter_map(|at| Some((self.instances[at].replica.as_ref()?.deadline(), at)))
                .min()
                .filter(|(deadline, _)| *deadline <= until);
            let Some((deadline, at)) = due else { break };
            self.now = self.now.max(deadline);
            self.step(at, Input::Tick);
        }
        self.now = until;
    }

    /// Time since the start.
    pub(super) fn now(&self) -> Duration {
        self.now
    }

    /// Log of an instance.
    pub(super) fn log(&self, at: usize) -> &[u8] {
        &self.instances[at].log
    }

    fn moment(&self) -> Moment {
        let millis = u64::try_from(self.now.as_millis()).unwrap_or(u64::MAX);
        Moment { elapsed: self.now, wall: Timestamp::from_millis(EPOCH_MILLIS + millis) }
    }

    fn step(&mut self, at: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = self.moment();
            let Some(replica) = &mut self.instances[at].replica else { return };
            let mut effects = Vec::new();
            replica.step(now, input, &mut effects);
            assert!(effects.len() < EFFECTS_MAX, "one input has {} effects", effects.len());
            self.note_executed(at);
            if let Some(after) = self.instances[at].crash_after.take() {
                self.crash(at, effects, after);
                return;
            }
            inputs.extend(self.effects(at, effects));
        }
    }

    fn crash(&mut self, at: usize, mut effects: Vec<Effect>, after: usize) {
        let torn = match effects.get(after) {
            Some(Effect::Append(record)) => wal::frame(record),
            _ => Vec::new(),
        };
        effects.truncate(after);
        self.effects(at, effects);
        self.stop(at);
        let log = &mut self.instances[at].log;
        if !log.is_empty() {
            log.extend(&torn[..torn.len() / 2]);
        }
        self.start(at);
    }

    fn note_executed(&mut self, at: usize) {
        let instance = &mut self.instances[at];
        let Some(replica) = &instance.replica else { return };
        let (executed, chain) = (replica.executed(), replica.chain());
        assert!(executed >= instance.seen, "{at} had executed {} and now {executed}", instance.seen);
        if executed == instance.seen {
            return;
        }
        let mut observe = |observation: Observation<'_>| {
            if instance.correct {
                self.oracle.observe(instance.node, self.now, &observation);
            }
        };
        for (seq, batch) in replica.decided_since(instance.seen) {
            self.events.push(format!("{at} executes {seq} {}", values(batch)));
            observe(Observation::Executed { seq, batch });
        }
        observe(Observation::Reached { seq: executed, chain });
        if let Some(id) = instance.machine.repeated() {
            observe(Observation::Repeated(id));
        }
        instance.seen = executed;
    }

    fn carry_out(&mut self, at: usize, effects: Vec<Effect>) {
        for input in self.effects(at, effects) {
            self.step(at, input);
        }
    }

    fn effects(&mut self, at: usize, effects: Vec<Effect>) -> Vec<Input> {
        let (mut inputs, key) = (Vec::new(), group::key(self.instances[at].node));
        for effect in effects {
            match effect {
                Effect::Append(record) => {
                    let log = &mut self.instances[at].log;
                    if log.is_empty() {
                        *log = wal::empty();
                    }
                    log.extend(wal::frame(&record));
                }
                Effect::Replace(image) => self.instances[at].log = wal::image(&image),
                Effect::Send(to, message) => self.post(at, to, message),
                Effect::Submit(to, mut message) => {
                    message.sign(|statement| group::sign(&key, statement));
                    self.post(at, to, message);
                }
                Effect::Publish { mut message, .. } => {
                    message.sign(|statement| group::sign(&key, statement));
                    self.note_vote(at, &message);
                    self.post(at, To::Others, message.clone());
                    inputs.push(Input::Own(message));
                }
                Effect::Verify(job, claims) => inputs.push(Input::Verified(job, group::check(&claims))),
                Effect::Answer(_, Ok(answer)) => {
                    self.events.push(format!("{at} is answered at {}", answer.seq));
                }
                Effect::Answer(_, Err(refusal)) => self.events.push(format!("{at} is refused: {refusal}")),
                Effect::ReadReady(_, seq) => self.events.push(format!("{at} reads at {seq}")),
                Effect::Event(event) => self.note(at, &event),
            }
        }
        inputs
    }

    fn note_vote(&mut self, at: usize, message: &Message) {
        let (Message::PrePrepare(_, vote) | Message::Vote(vote)) = message else { return };
        let Instance { node, correct: true, replica: Some(replica), .. } = &self.instances[at] else {
            return;
        };
        let observation = Observation::Voted { vote, stable: replica.stable(), window: self.config.window };
        self.oracle.observe(*node, self.now, &observation);
    }

    fn note(&mut self, at: usize, event: &Event) {
        let instance = &self.instances[at];
        self.oracle.on_event(instance.node, event, !instance.correct, self.now);
        let text = match event {
            Event::Leaving(view) => format!("leaves {view}"),
            Event::Entered(view, primary) => format!("enters {view} of {primary}"),
            Event::Stable(seq) => format!("is stable at {seq}"),
            Event::Epoch(epoch) => format!("begins {epoch}"),
            Event::Fetching(seq) => format!("fetches the state at {seq}"),
            Event::Caught(seq) => format!("has caught up at {seq}"),
            Event::Evidence(proof) => format!("can prove that {} equivocated", proof.replica),
            Event::BadSignature(replica) => format!("has a bad signature of {replica}"),
            Event::Diverged(seq) => format!("has another state at {seq}"),
        };
        self.events.push(format!("{at} {text}"));
    }

    fn post(&mut self, from: usize, to: To, message: Message) {
        if let Instance { node, correct: true, replica: Some(replica), .. } = &self.instances[from] {
            let observation = Observation::Sent { message: &message, members: replica.membership() };
            self.oracle.observe(*node, self.now, &observation);
        }
        let message = Arc::new(message);
        for to in (0..self.instances.len()).filter(|other| match to {
            To::One(key) => group::key(self.instances[*other].node) == key,
            To::Others => self.instances[*other].node != self.instances[from].node,
        }) {
            self.queue.push_back(Envelope { from, to, message: message.clone() });
        }
    }
}

impl Instance {
    fn new(node: NodeId, correct: bool) -> Self {
        Self {
            node,
            correct,
            replica: None,
            machine: Registers::default(),
            log: Vec::new(),
            incarnations: 0,
            crash_after: None,
            seen: Seq::ZERO,
        }
    }
}

/// The values that a batch writes.
fn values(batch: &orch_consensus::pbft::Batch) -> String {
    use orch_consensus::pbft::Body;
    let mut all = Vec::new();
    for request in &batch.requests {
        match &request.body {
            Body::Commands(commands) => {
                all.extend(commands.iter().filter_map(Command::read).map(|command| command.id.to_string()));
            }
            Body::Barrier => all.push("barrier".into()),
            Body::Membership(change) => all.push(format!("{change:?}")),
        }
    }
    format!("[{}]", all.join(" "))
}
