use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use orch_consensus::pbft::{Client, ClientEffect, ClientInput, ClientSetup, Config, Membership, Message, To};

use super::{
    group::{self, Packet},
    oracle::Oracle,
    registers::{Command, read_outcome},
};
use crate::{
    Context, NodeId,
    history::{KeyValueInput, OpId},
};

/// External client, at a node of its own. It keeps nothing: after a crash it is another incarnation of the
/// same client.
#[derive(Debug)]
pub(super) struct ExternalClient {
    node: NodeId,
    genesis: Membership,
    oracle: Rc<RefCell<Oracle>>,
    client: Client,
    waiting: BTreeMap<u64, OpId>,
    last_token: u64,
    /// The deadline that a timer was set for, and that timer.
    armed: Option<(Duration, u64)>,
    last_timer: u64,
}

impl ExternalClient {
    pub(super) fn new(
        node: NodeId,
        config: Config,
        genesis: Membership,
        session: u64,
        oracle: Rc<RefCell<Oracle>>,
    ) -> Self {
        let key = group::key(node);
        let client = Client::new(ClientSetup { config, members: genesis.clone(), key, session });
        Self {
            node,
            genesis,
            oracle,
            client,
            waiting: BTreeMap::new(),
            last_token: 0,
            armed: None,
            last_timer: 0,
        }
    }

    /// Operations that have no answer yet.
    pub(super) fn outstanding(&self) -> usize {
        self.client.outstanding()
    }

    /// It wants something done.
    pub(super) fn ask(&mut self, id: u64, input: KeyValueInput, ctx: &mut Context<'_, Packet>) -> OpId {
        let operation = self.oracle.borrow_mut().history.invoke(id, ctx.now(), input);
        self.last_token += 1;
        self.waiting.insert(self.last_token, operation);
        self.run(ClientInput::Propose(self.last_token, Command { id, input }.to_bytes()), ctx);
        operation
    }

    pub(super) fn receive(&mut self, from: NodeId, message: &Message, ctx: &mut Context<'_, Packet>) {
        self.run(ClientInput::Message(group::key(from), message.clone()), ctx);
    }

    pub(super) fn timer(&mut self, id: u64, ctx: &mut Context<'_, Packet>) {
        if self.armed.is_some_and(|(_, last)| last == id) {
            self.armed = None;
            self.run(ClientInput::Tick, ctx);
        }
    }

    fn run(&mut self, input: ClientInput, ctx: &mut Context<'_, Packet>) {
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            let mut effects = Vec::new();
            self.client.step(ctx.now(), inputs.drain(..), &mut effects);
            for effect in effects {
                self.carry_out(effect, &mut inputs, ctx);
            }
        }
        self.arm(ctx);
    }

    fn carry_out(
        &mut self,
        effect: ClientEffect,
        inputs: &mut Vec<ClientInput>,
        ctx: &mut Context<'_, Packet>,
    ) {
        match effect {
            ClientEffect::Submit(to, mut message) => {
                let key = group::key(self.node);
                message.sign(|statement| group::sign(&key, statement));
                self.send(to, message, ctx);
            }
            ClientEffect::Send(to, message) => self.send(to, message, ctx),
            ClientEffect::Verify(claims) => {
                inputs.push(ClientInput::Verified(group::check(&claims).is_empty()));
            }
            ClientEffect::Answer(token, answer) => {
                let Some(operation) = self.waiting.remove(&token) else { return };
                match answer.map(|answer| read_outcome(&answer.outcome)) {
                    Ok(Some(output)) => {
                        let mut oracle = self.oracle.borrow_mut();
                        oracle.completed.push((ctx.now(), operation));
                        oracle.history.complete(operation, ctx.now(), output);
                    }
                    Ok(None) => self.oracle.borrow_mut().break_with("a client was answered nonsense".into()),
                    Err(refusal) => ctx.log(|| format!("refused: {refusal}")),
                }
            }
            ClientEffect::Members => ctx.log(|| format!("knows {}", self.client.members().epoch())),
        }
    }

    fn send(&self, to: To, message: Message, ctx: &mut Context<'_, Packet>) {
        let packet = Arc::new(message);
        let all = self.client.members().members().iter().chain(self.genesis.members());
        let targets: BTreeSet<NodeId> = match to {
            To::One(key) => BTreeSet::from([group::node(&key)]),
            To::Others => all.map(|member| group::node(&member.key)).collect(),
        };
        for target in targets {
            ctx.send(target, packet.clone());
        }
    }

    fn arm(&mut self, ctx: &mut Context<'_, Packet>) {
        let Some(deadline) = self.client.deadline() else { return };
        if self.armed.is_none_or(|(armed, _)| deadline < armed) {
            self.last_timer += 1;
            self.armed = Some((deadline, self.last_timer));
            // At least a little, or a fast clock would come closer and closer and never arrive.
            let rest = deadline.saturating_sub(ctx.now()).max(Duration::from_micros(10));
            ctx.set_timer(rest, self.last_timer);
        }
    }
}
