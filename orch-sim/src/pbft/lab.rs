use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use orch_consensus::pbft::{
    Config, Digest, Effect, Event, Input, Membership, Message, Moment, Phase, Replica, SeededFault, Seq,
    Setup, To, wal,
};
use orch_core::model::Timestamp;

use super::{
    host::{EPOCH_MILLIS, member},
    keys,
    registers::{Command, Registers},
};
use crate::{NodeId, history::KeyValueInput};

/// A group whose messages move only when somebody says so. Disks and signatures take no time.
#[derive(Debug)]
pub(super) struct Lab {
    config: Config,
    genesis: Membership,
    instances: Vec<Instance>,
    queue: VecDeque<Parcel>,
    now: Duration,
    /// Instances of different groups do not hear each other.
    groups: Vec<usize>,
    /// Links and kinds of messages that are lost.
    lost: BTreeSet<(NodeId, NodeId, Option<&'static str>)>,
    next_token: u64,
    /// What happened since it was last asked for.
    pub(super) events: Vec<String>,
    chains: BTreeMap<Seq, Digest>,
    conflict: Option<Seq>,
}

/// A running replica. Twins are two with one key.
#[derive(Debug)]
struct Instance {
    node: NodeId,
    twin: bool,
    replica: Option<Replica>,
    log: Vec<u8>,
    seen: Seq,
}

#[derive(Debug)]
struct Parcel {
    from: usize,
    to: usize,
    message: Arc<Message>,
}

/// What a message is called in scripts.
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

fn kind(message: &Message) -> &'static str {
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
        Message::Reply(_) => "reply",
    }
}

impl Lab {
    /// `replicas` members; those in `twins` run twice.
    pub(super) fn new(replicas: usize, twins: &[NodeId], fault: Option<SeededFault>) -> Self {
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
        let nodes = (0..replicas).map(|node| (node, twins.contains(&node)));
        let second = twins.iter().map(|node| (*node, true));
        let mut lab = Self {
            config,
            genesis,
            instances: Vec::new(),
            queue: VecDeque::new(),
            now: Duration::ZERO,
            groups: Vec::new(),
            lost: BTreeSet::new(),
            next_token: 0,
            events: Vec::new(),
            chains: BTreeMap::new(),
            conflict: None,
        };
        for (node, twin) in nodes.chain(second) {
            lab.instances.push(Instance { node, twin, replica: None, log: Vec::new(), seen: Seq::ZERO });
            lab.groups.push(0);
        }
        (0..lab.instances.len()).for_each(|at| lab.start(at));
        lab
    }

    pub(super) fn instances(&self) -> usize {
        self.instances.len()
    }

    pub(super) fn replica(&self, at: usize) -> Option<&Replica> {
        self.instances[at].replica.as_ref()
    }

    /// The first place at which two correct replicas executed different batches.
    pub(super) fn conflict(&self) -> Option<Seq> {
        self.conflict
    }

    /// Correct replicas: those that are no twins.
    pub(super) fn correct(&self) -> impl Iterator<Item = (usize, &Replica)> {
        let correct = self.instances.iter().enumerate().filter(|(_, instance)| !instance.twin);
        correct.filter_map(|(at, instance)| Some((at, instance.replica.as_ref()?)))
    }

    /// Starts a replica with the log that it has.
    pub(super) fn start(&mut self, at: usize) {
        let node = self.instances[at].node;
        let setup = Setup {
            config: self.config.clone(),
            genesis: self.genesis.clone(),
            key: keys::key(node),
            session: 1 + u64::try_from(self.now.as_millis()).unwrap_or(0) + at as u64,
            machine: Box::new(Registers::default()),
        };
        let mut replica = Replica::new(setup).unwrap_or_else(|error| panic!("this is no replica: {error}"));
        let (image, _) = wal::read(&Bytes::from(self.instances[at].log.clone()))
            .unwrap_or_else(|error| panic!("the log of {at} cannot be read: {error}"));
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

    /// Puts instances into groups that do not hear each other.
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
        while let Some(parcel) = self.queue.pop_front() {
            let Parcel { from, to, message } = parcel;
            let name = kind(&message);
            let lost = self.lost.contains(&(from, to, None)) || self.lost.contains(&(from, to, Some(name)));
            if self.groups[from] != self.groups[to] || lost || self.instances[to].replica.is_none() {
                continue;
            }
            *delivered.entry(name).or_insert(0) += 1;
            let sender = keys::key(self.instances[from].node);
            self.step(to, Input::Message(sender, (*message).clone()));
        }
        delivered
    }

    /// Lets time pass and timers fire, without delivering anything.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
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
            self.note_executed(at);
            inputs.extend(self.effects(at, effects));
        }
    }

    fn note_executed(&mut self, at: usize) {
        let instance = &mut self.instances[at];
        let Some(replica) = &instance.replica else { return };
        let (executed, chain) = (replica.executed(), replica.chain());
        if executed == instance.seen {
            return;
        }
        for (seq, batch) in replica.decided_since(instance.seen) {
            self.events.push(format!("{at} executes {seq} {}", values(batch)));
        }
        instance.seen = executed;
        if !instance.twin && *self.chains.entry(executed).or_insert(chain) != chain {
            self.conflict.get_or_insert(executed);
        }
    }

    fn carry_out(&mut self, at: usize, effects: Vec<Effect>) {
        for input in self.effects(at, effects) {
            self.step(at, input);
        }
    }

    fn effects(&mut self, at: usize, effects: Vec<Effect>) -> Vec<Input> {
        let (mut inputs, key) = (Vec::new(), keys::key(self.instances[at].node));
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
                    message.sign(|statement| keys::sign(&key, statement));
                    self.post(at, to, message);
                }
                Effect::Publish { mut message, .. } => {
                    message.sign(|statement| keys::sign(&key, statement));
                    self.post(at, To::Others, message.clone());
                    inputs.push(Input::Own(message));
                }
                Effect::Verify(job, claims) => inputs.push(Input::Verified(job, keys::check(&claims))),
                Effect::Answer(_, Ok(answer)) => {
                    self.events.push(format!("{at} is answered at {}", answer.seq));
                }
                Effect::Answer(_, Err(refusal)) => self.events.push(format!("{at} is refused: {refusal}")),
                Effect::Passed(_, seq) => self.events.push(format!("{at} reads at {seq}")),
                Effect::Event(event) => self.note(at, &event),
            }
        }
        inputs
    }

    fn note(&mut self, at: usize, event: &Event) {
        let text = match event {
            Event::Leaving(view) => format!("leaves {view}"),
            Event::Entered(view, primary) => format!("enters {view} of {primary}"),
            Event::Stable(seq) => format!("is stable at {seq}"),
            Event::Epoch(epoch) => format!("begins {epoch}"),
            Event::Fetching(seq) => format!("fetches the state at {seq}"),
            Event::Caught(seq) => format!("has caught up at {seq}"),
            Event::Evidence(proof) => format!("can prove that {} lied", proof.replica),
            Event::BadSignature(replica) => format!("has a bad signature of {replica}"),
            Event::Diverged(seq) => format!("has another state at {seq}"),
        };
        self.events.push(format!("{at} {text}"));
    }

    fn post(&mut self, from: usize, to: To, message: Message) {
        let message = Arc::new(message);
        for to in (0..self.instances.len()).filter(|other| match to {
            To::One(key) => keys::key(self.instances[*other].node) == key,
            To::Others => self.instances[*other].node != self.instances[from].node,
        }) {
            self.queue.push_back(Parcel { from, to, message: message.clone() });
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
