//! Proposals of the primary, and the requests that reach it (TOCS 4.1, 4.2 and 5.1).

use std::{sync::Arc, time::Duration};

use super::{Replica, jobs::Job};
use crate::pbft::core::{
    batch::{Batch, Body, Request},
    clients::Standing,
    ids::{Digest, PublicKey, Seq},
    io::{Effect, Moment, To},
    message::{Message, Reply, UNSIGNED, Vote},
    record::Record,
    statement::{Claim, Phase, Statement},
};

impl Replica {
    /// A request from a client, or from a replica that passes it on.
    pub(super) fn on_request(
        &mut self,
        now: Moment,
        from: PublicKey,
        request: Arc<Request>,
        out: &mut Vec<Effect>,
    ) {
        let Some(signature) = request.signature else { return };
        if !self.is_request(&request) {
            return;
        }
        match self.service.standing(&request) {
            Standing::New => {
                let statement = Statement::Request { digest: request.digest() };
                let claim = Claim { key: request.client, statement, signature };
                self.verify(Job::Request(request), vec![claim], Some(from), now, out);
            }
            Standing::Done(Some(reply)) if from == request.client => self.reply(from, reply, out),
            Standing::Refused if from == request.client => {
                // It may not know that it has a later incarnation.
                let session = self.service.session(&from);
                if session > request.session {
                    let reply = Reply { session, number: 0, seq: Seq::ZERO, outcomes: Vec::new() };
                    self.reply(from, Arc::new(reply), out);
                }
            }
            Standing::Done(_) | Standing::Refused => {}
        }
    }

    /// TOCS 4.1: it is from another client that is known here, and fits into a batch.
    fn is_request(&self, request: &Request) -> bool {
        self.admits(&request.client)
            && request.client != self.key
            && request.size() <= self.config.batch_bytes_max
    }

    /// Sends a client the outcome of its request.
    pub(super) fn reply(&self, client: PublicKey, reply: Arc<Reply>, out: &mut Vec<Effect>) {
        out.push(Effect::Send(To::One(client), Message::Reply(self.epoch(), self.view, reply)));
    }

    /// A request whose client has signed it.
    pub(super) fn take_request(&mut self, now: Moment, request: Arc<Request>) {
        // The members may have changed while the signature was checked.
        if self.service.standing(&request) == Standing::New && self.admits(&request.client) {
            self.pool.add(request, now.elapsed);
        }
    }

    /// Members and those that the configuration names may ask for something.
    pub(super) fn admits(&self, client: &PublicKey) -> bool {
        self.membership().by_key(client).is_some() || self.config.clients.contains(client)
    }

    /// Proposes as long as there is reason and room: at once while nothing is in flight, otherwise when a
    /// batch is full or has waited, and never with more in flight than the pipeline holds.
    pub(super) fn propose(&mut self, now: Moment, out: &mut Vec<Effect>) {
        while self.leads() && self.proposed < self.high() {
            let in_flight = self.proposed.0.saturating_sub(self.executed().0);
            let ends_epoch = self.service.successor().is_some();
            if in_flight >= self.config.pipeline && !ends_epoch {
                return;
            }
            let due =
                in_flight == 0 || self.batch_is_full() || self.batch_at().is_some_and(|at| at <= now.elapsed);
            if due && self.local.open_commands() > 0 {
                self.send_bundle(now, out);
            }
            let requests = if due { self.gather() } else { Vec::new() };
            if requests.is_empty() && !ends_epoch {
                return;
            }
            self.propose_batch(now, requests, out);
        }
    }

    /// Time at which a batch that is not full is proposed all the same.
    pub(super) fn batch_at(&self) -> Option<Duration> {
        if !self.leads() || self.proposed >= self.high() {
            return None;
        }
        if self.proposed.0.saturating_sub(self.executed().0) >= self.config.pipeline {
            return None;
        }
        let since = [self.local.open_since(), self.pool.proposable_since()].into_iter().flatten().min()?;
        Some(since + self.config.batch_delay)
    }

    fn batch_is_full(&self) -> bool {
        self.local.open_commands() >= self.config.batch_commands_max
    }

    fn gather(&mut self) -> Vec<Arc<Request>> {
        let (mut requests, mut bytes, mut commands) = (Vec::new(), 64, 0);
        while commands < self.config.batch_commands_max {
            let room = (self.config.batch_bytes_max + 1024).saturating_sub(bytes);
            let Some(request) = self.pool.next(room) else { break };
            if self.service.standing(&request) != Standing::New {
                self.pool.remove(&request);
                continue;
            }
            bytes += request.size();
            commands += match &request.body {
                Body::Commands(commands) => commands.len(),
                Body::Barrier | Body::Membership(_) => 1,
            };
            requests.push(request);
        }
        requests
    }

    fn propose_batch(&mut self, now: Moment, requests: Vec<Arc<Request>>, out: &mut Vec<Effect>) {
        let Some(me) = self.me else { return };
        // A null batch brings the end of an epoch nearer when there are no requests.
        let batch =
            Arc::new(if requests.is_empty() { Batch::null() } else { Batch::new(now.wall, requests) });
        self.proposed = self.proposed.next();
        let vote = Vote {
            phase: Phase::Prepare,
            epoch: self.epoch(),
            view: self.view,
            seq: self.proposed,
            digest: batch.digest(),
            replica: me,
            signature: UNSIGNED,
        };
        self.accept(now, &batch, vote.seq, out);
        self.publish(Message::PrePrepare(batch, vote), out);
    }

    /// Accepts a batch at its sequence number in this view, and puts that in the log. The vote that says so
    /// comes next.
    pub(super) fn accept(
        &mut self,
        now: Moment,
        batch: &Arc<Batch>,
        seq: crate::pbft::core::ids::Seq,
        out: &mut Vec<Effect>,
    ) {
        let digest: Digest = batch.digest();
        let Some(slot) = self.log.get_mut(seq) else { return };
        let known = slot.body(&digest).is_some();
        slot.proposal = Some(crate::pbft::core::log::Proposal { digest, since: now.elapsed, accepted: true });
        slot.keep_body(batch.clone());
        if !known && !batch.is_null() {
            self.append(Record::Body(seq, batch.clone()), out);
        }
        self.append(Record::Accepted(self.epoch(), self.view, seq, digest), out);
        // It may have been decided before its body was here.
        self.execute_decided(now, out);
    }
}
