use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use orch_consensus::pbft::{
    Change, Claim, Config, Effect, Input, Membership, Message, Moment, Replica, Seq, Setup, To, wal,
};
use orch_core::model::Timestamp;

use super::{
    byzantine::ByzantineReplica,
    group::{self, EPOCH_MILLIS, Packet},
    invariants::Observation,
    oracle::Oracle,
    registers::{Command, Registers, read_outcome},
};
use crate::{
    Context, NodeId, Process,
    history::{KeyValueInput, KeyValueOutput, OpId},
};

const LOG: &str = "log";
/// Timers of the replica's deadline have this bit and a number; only the last one counts.
const TICK: u64 = 1 << 63;
const RETRY_WRITES: u64 = 0;
/// Timers from here on stand for signatures that are being checked.
const CHECKS: u64 = 16;

/// Parameters of a host.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) node: NodeId,
    pub(super) config: Config,
    pub(super) genesis: Membership,
    pub(super) attack: Option<ByzantineReplica>,
    /// Time of a signature check; none when it is part of the step.
    pub(super) check_time: Option<Duration>,
}

/// A replica with everything around it: its log on the simulated disk, its keys, its clients.
#[derive(Debug)]
pub(super) struct Host {
    plan: Plan,
    oracle: Rc<RefCell<Oracle>>,
    machine: Registers,
    replica: Replica,
    /// Changes of the log: asked for, written, on their way to the disk, durable.
    appended: u64,
    /// Changes of the log in this incarnation that were the host's own.
    cut: u64,
    unwritten: VecDeque<Write>,
    syncing: Option<u64>,
    durable: u64,
    held: VecDeque<(u64, Message)>,
    checks: BTreeMap<u64, (u64, Vec<Claim>)>,
    last_check: u64,
    /// The deadline that a timer was set for, and that timer.
    armed: Option<(Duration, u64)>,
    last_tick: u64,
    waiting: BTreeMap<u64, (OpId, KeyValueInput)>,
    last_token: u64,
    seen: Seq,
}

#[derive(Debug)]
enum Write {
    Append(Vec<u8>),
    Replace(Vec<u8>),
}

impl Host {
    /// A host before it starts. It reads its log then.
    pub(super) fn new(plan: Plan, session: u64, oracle: Rc<RefCell<Oracle>>) -> Self {
        let machine = Registers::default();
        let setup = Setup {
            config: plan.config.clone(),
            genesis: plan.genesis.clone(),
            key: group::key(plan.node),
            session,
            machine: Box::new(machine.clone()),
        };
        let replica = Replica::new(setup).unwrap_or_else(|error| panic!("the scenario is wrong: {error}"));
        Self {
            plan,
            oracle,
            machine,
            replica,
            appended: 0,
            cut: 0,
            unwritten: VecDeque::new(),
            syncing: None,
            durable: 0,
            held: VecDeque::new(),
            checks: BTreeMap::new(),
            last_check: CHECKS,
            armed: None,
            last_tick: TICK,
            waiting: BTreeMap::new(),
            last_token: 0,
            seen: Seq::ZERO,
        }
    }

    pub(super) fn replica(&self) -> &Replica {
        &self.replica
    }

    pub(super) fn machine(&self) -> &Registers {
        &self.machine
    }

    /// Operations of the clients at this node that have no answer yet.
    pub(super) fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// Operations that the clients at this node wait for.
    pub(super) fn waiting(&self) -> Vec<KeyValueInput> {
        self.waiting.values().map(|(_, input)| *input).collect()
    }

    /// A client at this node wants something done.
    pub(super) fn ask(
        &mut self,
        id: u64,
        input: KeyValueInput,
        ordered: bool,
        ctx: &mut Context<'_, Packet>,
    ) -> OpId {
        let operation = self.oracle.borrow_mut().history.invoke(id, ctx.now(), input);
        self.last_token += 1;
        let token = self.last_token;
        self.waiting.insert(token, (operation, input));
        let read = matches!(input, KeyValueInput::Get { .. }) && !ordered;
        let input = if read {
            Input::Barrier(token)
        } else {
            Input::Propose(token, Command { id, input }.to_bytes())
        };
        self.run(input, ctx);
        operation
    }

    /// The operator at this node votes for a change of members.
    pub(super) fn change_members(&mut self, change: Change, ctx: &mut Context<'_, Packet>) {
        self.last_token += 1;
        let token = self.last_token;
        self.run(Input::ChangeMembers(token, change), ctx);
    }

    fn run(&mut self, input: Input, ctx: &mut Context<'_, Packet>) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut effects = Vec::new();
            self.replica.step(self.moment(ctx), input, &mut effects);
            self.report(ctx);
            self.carry_out(effects, &mut inputs, ctx);
        }
        self.begin_sync(ctx);
        self.arm(ctx);
    }

    fn moment(&self, ctx: &Context<'_, Packet>) -> Moment {
        let millis = u64::try_from(ctx.local_time().as_millis()).unwrap_or(u64::MAX);
        Moment { elapsed: ctx.now(), wall: Timestamp::from_millis(EPOCH_MILLIS + millis) }
    }

    /// Reports to the oracle what the replica has executed since the last report.
    fn report(&mut self, ctx: &Context<'_, Packet>) {
        let executed = self.replica.executed();
        if executed == self.seen || self.plan.attack.is_some() {
            return;
        }
        let mut oracle = self.oracle.borrow_mut();
        for (seq, batch) in self.replica.decided_since(self.seen) {
            oracle.observe(self.plan.node, ctx.now(), &Observation::Executed { seq, batch });
        }
        let chain = self.replica.chain();
        oracle.observe(self.plan.node, ctx.now(), &Observation::Reached { seq: executed, chain });
        if let Some(id) = self.machine.repeated() {
            oracle.observe(self.plan.node, ctx.now(), &Observation::Repeated(id));
        }
        self.seen = executed;
    }

    fn carry_out(
        &mut self,
        effects: Vec<Effect>,
        inputs: &mut VecDeque<Input>,
        ctx: &mut Context<'_, Packet>,
    ) {
        for effect in effects {
            match effect {
                Effect::Append(record) => self.write(Write::Append(wal::frame(&record)), ctx),
                Effect::Replace(image) => self.write(Write::Replace(wal::image(&image)), ctx),
                Effect::Send(to, message) => self.send(to, message, ctx),
                Effect::Submit(to, mut message) => {
                    let key = group::key(self.plan.node);
                    message.sign(|statement| group::sign(&key, statement));
                    self.send(to, message, ctx);
                }
                Effect::Publish { message, after } if after + self.cut <= self.durable => {
                    inputs.push_back(self.publish(message, ctx));
                }
                Effect::Publish { message, after } => self.held.push_back((after + self.cut, message)),
                Effect::Verify(job, claims) => match self.plan.check_time {
                    None => inputs.push_back(Input::Verified(job, group::check(&claims))),
                    Some(time) => {
                        self.last_check += 1;
                        self.checks.insert(self.last_check, (job, claims));
                        ctx.set_timer(time, self.last_check);
                    }
                },
                Effect::Answer(token, Ok(answer)) => {
                    let output = read_outcome(&answer.outcome);
                    self.complete(token, ctx.now(), output);
                }
                Effect::Answer(token, Err(refusal)) => {
                    ctx.log(|| format!("refused: {refusal}"));
                    self.waiting.remove(&token);
                }
                Effect::ReadReady(token, _) => {
                    if let Some((_, KeyValueInput::Get { key })) = self.waiting.get(&token) {
                        let output = KeyValueOutput::Value(self.machine.value(*key));
                        self.complete(token, ctx.now(), Some(output));
                    }
                }
                Effect::Event(event) => {
                    ctx.log(|| format!("{event:?}"));
                    self.oracle.borrow_mut().on_event(
                        self.plan.node,
                        &event,
                        self.plan.attack.is_some(),
                        ctx.now(),
                    );
                }
            }
        }
    }

    fn complete(&mut self, token: u64, now: Duration, output: Option<KeyValueOutput>) {
        if let Some((operation, _)) = self.waiting.remove(&token)
            && let Some(output) = output
        {
            let mut oracle = self.oracle.borrow_mut();
            oracle.completed.push((now, operation));
            oracle.history.complete(operation, now, output);
        }
    }

    /// Signs and sends a message of our own, and gives it back as the input that it is for ourselves.
    fn publish(&mut self, mut message: Message, ctx: &mut Context<'_, Packet>) -> Input {
        let key = group::key(self.plan.node);
        message.sign(|statement| group::sign(&key, statement));
        if let (Message::PrePrepare(_, vote) | Message::Vote(vote), None) = (&message, &self.plan.attack) {
            let (stable, window) = (self.replica.stable(), self.plan.config.window);
            let observation = Observation::Voted { vote, stable, window };
            self.oracle.borrow_mut().observe(self.plan.node, ctx.now(), &observation);
        }
        self.send(To::Others, message.clone(), ctx);
        Input::Own(message)
    }

    fn send(&mut self, to: To, message: Message, ctx: &mut Context<'_, Packet>) {
        let targets: Vec<NodeId> = match to {
            To::One(key) => vec![group::node(&key)],
            To::Others => self.peers().filter(|peer| *peer != self.plan.node).collect(),
        };
        if let Some(byzantine) = &mut self.plan.attack {
            byzantine.send(&self.replica, targets, &message, ctx);
            return;
        }
        let observation = Observation::Sent { message: &message, members: self.replica.membership() };
        self.oracle.borrow_mut().observe(self.plan.node, ctx.now(), &observation);
        let packet = Arc::new(message);
        for target in targets {
            ctx.send(target, packet.clone());
        }
    }

    /// Members now or at the beginning: a replica that is far behind knows no others.
    fn peers(&self) -> impl Iterator<Item = NodeId> {
        let now = self.replica.membership().members().iter().map(|member| group::node(&member.key));
        let first = self.plan.genesis.members().iter().map(|member| group::node(&member.key));
        now.chain(first).collect::<std::collections::BTreeSet<_>>().into_iter()
    }

    fn write(&mut self, write: Write, ctx: &mut Context<'_, Packet>) {
        self.appended += 1;
        self.unwritten.push_back(write);
        self.write_out(ctx);
    }

    /// Writes what is to be written. On a full disk it waits, and with it all that depends on it.
    fn write_out(&mut self, ctx: &mut Context<'_, Packet>) {
        while let Some(write) = self.unwritten.front() {
            let done = match write {
                Write::Append(frame) if ctx.read(LOG).is_empty() => {
                    let mut log = wal::empty();
                    log.extend(frame);
                    ctx.append(LOG, &log)
                }
                Write::Append(frame) => ctx.append(LOG, frame),
                Write::Replace(image) => ctx.replace(LOG, image.clone()),
            };
            if done.is_err() {
                ctx.set_timer(Duration::from_millis(100), RETRY_WRITES);
                return;
            }
            self.unwritten.pop_front();
        }
    }

    fn begin_sync(&mut self, ctx: &mut Context<'_, Packet>) {
        let written = self.appended - self.unwritten.len() as u64;
        if self.syncing.is_none() && written > self.durable {
            self.syncing = Some(written);
            ctx.sync(written);
        }
    }

    fn arm(&mut self, ctx: &mut Context<'_, Packet>) {
        let deadline = self.replica.deadline();
        if self.armed.is_none_or(|(armed, _)| deadline < armed) {
            self.last_tick += 1;
            self.armed = Some((deadline, self.last_tick));
            // At least a little, or a fast clock would come closer and closer and never arrive.
            let rest = deadline.saturating_sub(ctx.now()).max(Duration::from_micros(10));
            ctx.set_timer(rest, self.last_tick);
        }
    }
}

impl Process for Host {
    type Message = Packet;

    fn start(&mut self, ctx: &mut Context<'_, Packet>) {
        let node = self.plan.node;
        let log = Bytes::copy_from_slice(ctx.read(LOG));
        let (image, sound) =
            wal::read(&log).unwrap_or_else(|error| panic!("node {node} cannot read its log: {error}"));
        // A log that ends in the middle of a frame is cut before anything is added to it.
        if sound < log.len() {
            self.write(Write::Replace(log[..sound].to_vec()), ctx);
        }
        self.cut = self.appended;
        let mut effects = Vec::new();
        let recovered = self.replica.recover(self.moment(ctx), image, &mut effects);
        recovered.unwrap_or_else(|error| panic!("node {node} cannot go on: {error}"));
        self.seen = self.replica.executed();
        let mut inputs = VecDeque::new();
        self.carry_out(effects, &mut inputs, ctx);
        for input in inputs {
            self.run(input, ctx);
        }
        self.run(Input::Tick, ctx);
    }

    fn receive(&mut self, from: NodeId, message: Packet, ctx: &mut Context<'_, Packet>) {
        if let Some(byzantine) = &mut self.plan.attack {
            byzantine.observe(&message);
        }
        self.run(Input::Message(group::key(from), (*message).clone()), ctx);
    }

    fn timer(&mut self, id: u64, ctx: &mut Context<'_, Packet>) {
        match id {
            RETRY_WRITES => {
                self.write_out(ctx);
                self.begin_sync(ctx);
            }
            // A fast clock fires before the deadline: the next timer waits for the rest.
            tick if tick & TICK != 0 => {
                if self.armed.is_some_and(|(_, last)| last == tick) {
                    self.armed = None;
                    self.run(Input::Tick, ctx);
                }
            }
            check => {
                if let Some((job, claims)) = self.checks.remove(&check) {
                    self.run(Input::Verified(job, group::check(&claims)), ctx);
                }
            }
        }
    }

    fn synced(&mut self, token: u64, ctx: &mut Context<'_, Packet>) {
        self.syncing = None;
        self.durable = token;
        while self.held.front().is_some_and(|(after, _)| *after <= token) {
            if let Some((_, message)) = self.held.pop_front() {
                let input = self.publish(message, ctx);
                self.run(input, ctx);
            }
        }
        self.begin_sync(ctx);
    }
}
