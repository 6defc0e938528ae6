//! The client in this process: its commands are bundled into requests, and answered when this replica
//! executes them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;

use super::Replica;
use crate::pbft::core::{
    ballot::VoteOutcome,
    batch::{Body, Bundle, Request},
    io::{Answer, Effect, Moment, Refusal, To},
    membership::Change,
    message::{Message, Reply},
};

/// Bundles that a replica that does not lead has on their way at a time; more commands wait and fill the next
/// one.
const BUNDLES_MAX: usize = 8;

/// Commands that wait for a bundle, and bundles that wait for their answers.
#[derive(Debug)]
pub(super) struct Local {
    session: u64,
    next: u64,
    open: Vec<(u64, Bytes)>,
    open_since: Duration,
    sent: BTreeMap<u64, Sent>,
}

/// A request of ours on its way.
#[derive(Debug)]
struct Sent {
    request: Arc<Request>,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    /// The token of each command.
    Commands(Vec<u64>),
    /// Reads that were not answered quickly.
    Barrier(Vec<u64>),
    Membership(u64),
}

impl Local {
    pub(super) fn new(session: u64) -> Self {
        Self {
            session: session.max(1),
            next: 1,
            open: Vec::new(),
            open_since: Duration::ZERO,
            sent: BTreeMap::new(),
        }
    }

    /// Time since which the first command waits to be bundled.
    pub(super) fn open_since(&self) -> Option<Duration> {
        (!self.open.is_empty()).then_some(self.open_since)
    }

    pub(super) fn open_commands(&self) -> usize {
        self.open.len()
    }

    pub(super) fn requests(&self) -> Vec<Arc<Request>> {
        self.sent.values().map(|sent| sent.request.clone()).collect()
    }
}

impl Replica {
    pub(super) fn local_propose(&mut self, now: Moment, token: u64, command: Bytes, out: &mut Vec<Effect>) {
        if self.me.is_none() {
            out.push(Effect::Answer(token, Err(Refusal::NotAMember)));
            return;
        }
        let size = command.len();
        if !Bundle::takes(size, &self.config) {
            out.push(Effect::Answer(token, Err(Refusal::TooLarge(size))));
            return;
        }
        if self.local.open.is_empty() {
            self.local.open_since = now.elapsed;
        }
        self.local.open.push((token, command));
    }

    /// Sends what waits to the primary, as long as not too much is on its way.
    pub(super) fn send_bundles(&mut self, now: Moment, out: &mut Vec<Effect>) {
        while !self.leads() && !self.local.open.is_empty() && self.local.sent.len() < BUNDLES_MAX {
            self.send_bundle(now, out);
        }
    }

    pub(super) fn local_change(&mut self, now: Moment, token: u64, change: Change, out: &mut Vec<Effect>) {
        if self.me.is_none() {
            out.push(Effect::Answer(token, Err(Refusal::NotAMember)));
            return;
        }
        let request = self.number(Body::Membership(change), Purpose::Membership(token));
        self.enter(now, request, out);
    }

    /// True while not too much is on its way already.
    pub(super) fn may_order_barrier(&self) -> bool {
        self.local.sent.len() < 2 * BUNDLES_MAX
    }

    /// Has reads ordered that could not be answered otherwise.
    pub(super) fn order_barrier(&mut self, now: Moment, tokens: Vec<u64>, out: &mut Vec<Effect>) {
        let request = self.number(Body::Barrier, Purpose::Barrier(tokens));
        self.enter(now, request, out);
    }

    /// Bundles what waits, as much as fits into a batch, and has it ordered.
    pub(super) fn send_bundle(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Some(bundle) = Bundle::take(&mut self.local.open, &self.config) else { return };
        self.local.open_since = now.elapsed;
        let (body, purpose) = (Body::Commands(bundle.commands), Purpose::Commands(bundle.tokens));
        let request = self.number(body, purpose);
        self.enter(now, request, out);
    }

    /// This replica executed a request of ours.
    pub(super) fn answer_local(&mut self, reply: &Reply, out: &mut Vec<Effect>) {
        if reply.session != self.local.session {
            return;
        }
        let Some(sent) = self.local.sent.remove(&reply.number) else { return };
        match sent.purpose {
            Purpose::Commands(tokens) => {
                for (token, outcome) in tokens.into_iter().zip(&reply.outcomes) {
                    let answer = Answer { seq: reply.seq, outcome: outcome.clone() };
                    out.push(Effect::Answer(token, Ok(answer)));
                }
            }
            Purpose::Barrier(tokens) => {
                out.extend(tokens.into_iter().map(|token| Effect::ReadReady(token, reply.seq)));
            }
            Purpose::Membership(token) => {
                let outcome = reply.outcomes.first().cloned().unwrap_or_default();
                let answer = match VoteOutcome::from_wire(&outcome) {
                    Some(VoteOutcome::Recorded | VoteOutcome::Adopted) => {
                        Ok(Answer { seq: reply.seq, outcome })
                    }
                    Some(VoteOutcome::Refused(refusal)) => Err(Refusal::Membership(refusal)),
                    // Not of this version: it was counted or not.
                    None => Err(Refusal::Unknown),
                };
                out.push(Effect::Answer(token, answer));
            }
        }
    }

    /// The replicated state knows a later incarnation of ours than this one: the clock that numbered it was
    /// set back. What was sent so far will not be executed; the next incarnation begins.
    pub(super) fn renew_session(&mut self, out: &mut Vec<Effect>) {
        let known = self.service.session(&self.key);
        if known <= self.local.session {
            return;
        }
        self.local.session = known + 1;
        self.local.next = 1;
        self.give_up_sent(out);
        let (key, session) = (self.key, self.local.session);
        self.pool.forget(|request| request.client == key && request.session < session);
    }

    /// This replica is no member any more: its requests are not executed.
    pub(super) fn give_up_local(&mut self, out: &mut Vec<Effect>) {
        let refused = |(token, _)| Effect::Answer(token, Err(Refusal::NotAMember));
        out.extend(std::mem::take(&mut self.local.open).into_iter().map(refused));
        self.give_up_sent(out);
        self.give_up_reads(out);
    }

    fn give_up_sent(&mut self, out: &mut Vec<Effect>) {
        for (_, sent) in std::mem::take(&mut self.local.sent) {
            let tokens = match sent.purpose {
                Purpose::Commands(tokens) | Purpose::Barrier(tokens) => tokens,
                Purpose::Membership(token) => vec![token],
            };
            out.extend(tokens.into_iter().map(|token| Effect::Answer(token, Err(Refusal::Unknown))));
        }
    }

    fn number(&mut self, body: Body, purpose: Purpose) -> Arc<Request> {
        let number = self.local.next;
        self.local.next += 1;
        let answered = self.local.sent.first_key_value().map_or(number, |(first, _)| *first) - 1;
        let request = Arc::new(Request::new(self.key, self.local.session, number, answered, body));
        self.local.sent.insert(number, Sent { request: request.clone(), purpose });
        request
    }

    fn enter(&mut self, now: Moment, request: Arc<Request>, out: &mut Vec<Effect>) {
        self.pool.add(request.clone(), now.elapsed);
        if !self.is_primary() {
            let primary = self.membership().primary(self.view).key;
            out.push(Effect::Submit(To::One(primary), Message::Request(request)));
        }
    }
}
