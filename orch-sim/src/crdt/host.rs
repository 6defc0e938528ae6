//! A replica as its host runs it: steps at once, effects when the disk has what they stand for.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use orch_core::{
    model::Timestamp,
    store::{Key, Txn},
    transport::PeerId,
};
use orch_store::crdt::{
    AuthorKey, Decision, Effect, Event, MemoryTables, Message, Moment, Replica, ReplicaConfig, TxnOutcome,
};

use crate::{Context, NodeId, Process};

/// Beginning of the simulated clocks.
const BEGIN: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const TICK: Duration = Duration::from_millis(100);
const TIMER: u64 = 0;

/// State that outlives the processes, and the test's knowledge of them.
#[derive(Debug, Default)]
pub(super) struct World {
    /// Durable tables of each node as of the last sync, which a crash leaves.
    pub(super) disks: Vec<MemoryTables>,
    /// The last write of each key that was answered, by key. Only keys that one author writes.
    pub(super) answered: BTreeMap<Key, Option<Bytes>>,
    pub(super) decisions: Vec<Decision>,
    pub(super) violations: Vec<String>,
    pub(super) evidence: usize,
    /// Byzantine replicas are silent from now on.
    pub(super) quiet: bool,
}

pub(super) type Shared = Rc<RefCell<World>>;

/// The key of a node.
pub(super) fn key_of(node: NodeId) -> AuthorKey {
    let seed = u8::try_from(node + 1).unwrap_or(u8::MAX);
    AuthorKey::from_seed(&[seed; 32])
}

/// Description of the group that all nodes have.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) config: ReplicaConfig,
    pub(super) ids: Vec<PeerId>,
    /// The first node that forger; all after it do too.
    pub(super) byzantine_from: NodeId,
}

/// A process that keeps to the protocol.
pub(super) struct Host {
    pub(super) replica: Replica,
    pub(super) tables: MemoryTables,
    plan: Rc<Plan>,
    shared: Shared,
    /// Writes that wait for the disk, with the tables as they will be there.
    waiting: VecDeque<Pending>,
    syncs: u64,
}

struct Pending {
    token: u64,
    tables: MemoryTables,
    effects: Vec<Effect>,
    answers: Vec<(Key, Option<Bytes>)>,
}

pub(super) fn moment<M: Clone + std::fmt::Debug>(ctx: &Context<'_, M>) -> Moment {
    Moment { elapsed: ctx.now(), wall: BEGIN.after(ctx.local_time()) }
}

impl Host {
    pub(super) fn new(node: NodeId, plan: &Rc<Plan>, shared: &Shared) -> Self {
        let mut tables = shared.borrow().disks[node].clone();
        let opened = Replica::open(&mut tables, plan.config.clone(), key_of(node));
        let Ok(Ok(replica)) = opened else { unreachable!("the tables are those of this replica") };
        let (plan, shared) = (Rc::clone(plan), Rc::clone(shared));
        Self { replica, tables, plan, shared, waiting: VecDeque::new(), syncs: 0 }
    }

    /// Writes as a client would; the answer counts once it is on the disk.
    pub(super) fn write(&mut self, ctx: &mut Context<'_, Bytes>, txn: Txn) {
        let mut out = Vec::new();
        let writes = txn.writes.clone();
        let Ok(outcomes) = self.replica.write(&mut self.tables, moment(ctx), [txn], &mut out);
        let applied = matches!(outcomes.first(), Some(TxnOutcome::Applied(_)));
        let answers = writes.into_iter().filter(|_| applied).map(|write| (write.key, write.value));
        let answers = answers.collect();
        self.hold(ctx, out, answers);
    }

    fn hold(
        &mut self,
        ctx: &mut Context<'_, Bytes>,
        effects: Vec<Effect>,
        answers: Vec<(Key, Option<Bytes>)>,
    ) {
        self.syncs += 1;
        let pending = Pending { token: self.syncs, tables: self.tables.clone(), effects, answers };
        self.waiting.push_back(pending);
        ctx.sync(self.syncs);
    }

    fn carry_out(&mut self, ctx: &mut Context<'_, Bytes>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Applied(_) => {}
                Effect::Send(to, message) => {
                    if let Some(node) = self.plan.ids.iter().position(|id| *id == to) {
                        ctx.send(node, message.encode().into());
                    }
                }
                Effect::Event(Event::Evidence(evidence)) => self.accused(evidence.author()),
                // No correct author does that, and others may have taken it: a decision has to say what
                // counts.
                Effect::Event(Event::Refused { author, why, .. }) if why.contains("older than deletes") => {
                    self.accused(author);
                }
                Effect::Event(event) => ctx.log(|| format!("{event:?}")),
            }
        }
    }

    /// Operators' reaction to evidence: they remove the author, with the log that this replica has.
    fn accused(&self, author: PeerId) {
        let mut shared = self.shared.borrow_mut();
        shared.evidence += 1;
        let correct = self.plan.ids[..self.plan.byzantine_from].contains(&author);
        if correct {
            shared.violations.push(format!("there is evidence against {author}, which is correct"));
        }
        let status = self.replica.status();
        let end = status.authors.iter().find(|known| known.id == author).map(|known| known.head);
        let decided = |decision: &Decision| matches!(decision, Decision::Leave { author: other, .. } if *other == author);
        if let Some(end) = end
            && !shared.decisions.iter().any(decided)
        {
            shared.decisions.push(Decision::Leave { author, end });
        }
    }

    /// Decisions come from elsewhere, to each at another time.
    fn hear_decisions(&mut self, out: &mut Vec<Effect>) {
        let next = self.replica.status().decided;
        let decision =
            self.shared.borrow().decisions.get(usize::try_from(next).unwrap_or(usize::MAX)).cloned();
        if let Some(decision) = decision {
            let Ok(decided) = self.replica.decide(&mut self.tables, next + 1, decision, out);
            if let Err(error) = decided {
                self.shared.borrow_mut().violations.push(error.to_string());
            }
        }
    }
}

impl Process for Host {
    type Message = Bytes;

    fn start(&mut self, ctx: &mut Context<'_, Bytes>) {
        ctx.set_timer(TICK, TIMER);
    }

    fn receive(&mut self, from: NodeId, message: Bytes, ctx: &mut Context<'_, Bytes>) {
        let Ok(message) = Message::decode(message) else { return };
        let mut out = Vec::new();
        let from = self.plan.ids[from];
        let Ok(()) = self.replica.receive(&mut self.tables, moment(ctx), from, message, &mut out);
        self.hold(ctx, out, Vec::new());
    }

    fn timer(&mut self, _: u64, ctx: &mut Context<'_, Bytes>) {
        let mut out = Vec::new();
        if self.shared.borrow().quiet || ctx.random().chance(150) {
            self.hear_decisions(&mut out);
        }
        let nonce = u128::from(ctx.random().next()).to_le_bytes();
        let Ok(()) = self.replica.tick(&mut self.tables, moment(ctx), nonce, &mut out);
        self.hold(ctx, out, Vec::new());
        let jitter = ctx.random().duration(Duration::ZERO, TICK / 2);
        ctx.set_timer(TICK + jitter, TIMER);
    }

    fn synced(&mut self, token: u64, ctx: &mut Context<'_, Bytes>) {
        while self.waiting.front().is_some_and(|pending| pending.token <= token) {
            let Some(pending) = self.waiting.pop_front() else { return };
            {
                let mut shared = self.shared.borrow_mut();
                shared.disks[ctx.node()] = pending.tables;
                shared.answered.extend(pending.answers);
            }
            self.carry_out(ctx, pending.effects);
        }
    }
}
