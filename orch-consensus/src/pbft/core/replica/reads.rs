//! Linearizable reads without ordering them.
//!
//! A command is answered when it is committed, and then f + 1 correct replicas have prepared it. Any quorum
//! of replicas that are asked later contains one of those, so a replica that waits until it has executed the
//! highest sequence number that anyone in a quorum has prepared has executed the command. It needs no second
//! round for writes and no matching answers, which is where the read optimisation of the paper loses liveness
//! (Berger, Reiser and Bessani, "Making Reads in BFT State Machine Replication Fast, Linearizable, and Live",
//! SRDS 2021): a Byzantine or silent replica can only make a read slow, because after a while it is ordered
//! like a command.

use std::{collections::BTreeMap, time::Duration};

use super::Replica;
use crate::pbft::core::{
    ids::{ReplicaId, Seq},
    io::{Effect, Moment, Refusal, To},
    message::Message,
};

/// Reads that wait, and the query that is on its way for some of them.
#[derive(Debug, Default)]
pub(super) struct Reads {
    last: u64,
    waiting: Vec<u64>,
    round: Option<Round>,
}

#[derive(Debug)]
struct Round {
    id: u64,
    tokens: Vec<u64>,
    answers: BTreeMap<ReplicaId, Seq>,
    deadline: Duration,
}

impl Reads {
    /// Leaves the answers no time limit, as the seeded fault has it.
    #[cfg(feature = "simulation")]
    pub(super) fn wait_for_ever(&mut self) {
        if let Some(round) = &mut self.round {
            round.deadline = Duration::MAX;
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.round.as_ref().map(|round| round.deadline)
    }
}

impl Replica {
    pub(super) fn local_barrier(&mut self, now: Moment, token: u64, out: &mut Vec<Effect>) {
        if self.me.is_none() {
            out.push(Effect::Answer(token, Err(Refusal::NotAMember)));
            return;
        }
        self.reads.waiting.push(token);
        self.run_reads(now, out);
    }

    pub(super) fn on_read_answer(
        &mut self,
        now: Moment,
        from: ReplicaId,
        id: u64,
        prepared: Seq,
        out: &mut Vec<Effect>,
    ) {
        // An answer beyond everything that can have been agreed on is false, or we are far behind: neither
        // helps.
        let possible = prepared <= self.log.low().plus(2 * self.window());
        if let Some(round) = self.reads.round.as_mut().filter(|round| round.id == id && possible) {
            round.answers.insert(from, prepared);
            self.run_reads(now, out);
        }
    }

    /// The members have changed: what the old ones answered says nothing about a quorum of the new ones.
    pub(super) fn restart_reads(&mut self) {
        let asked = self.reads.round.take().map(|round| round.tokens).unwrap_or_default();
        self.reads.waiting.splice(0..0, asked);
    }

    /// This replica is no member any more and cannot find out what the others have.
    pub(super) fn give_up_reads(&mut self, out: &mut Vec<Effect>) {
        let asked = self.reads.round.take().map(|round| round.tokens).unwrap_or_default();
        let tokens = asked.into_iter().chain(std::mem::take(&mut self.reads.waiting));
        out.extend(tokens.map(|token| Effect::Answer(token, Err(Refusal::NotAMember))));
    }

    pub(super) fn run_reads(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let (executed, quorum) = (self.executed(), self.quorum());
        if let Some(round) = &self.reads.round {
            let target = round.answers.values().copied().max().unwrap_or_default();
            let answered = round.answers.len() >= quorum && executed >= target;
            let late = now.elapsed >= round.deadline;
            if !answered && !late {
                return;
            }
            let tokens = self.reads.round.take().map(|round| round.tokens).unwrap_or_default();
            if answered {
                out.extend(tokens.into_iter().map(|token| Effect::ReadReady(token, executed)));
            } else if self.may_order_barrier() {
                self.order_barrier(now, tokens, out);
            } else {
                self.reads.waiting.splice(0..0, tokens);
            }
        }
        let Some(me) = self.me else { return };
        if self.reads.waiting.is_empty() {
            return;
        }
        self.reads.last += 1;
        let id = self.reads.last;
        self.reads.round = Some(Round {
            id,
            tokens: std::mem::take(&mut self.reads.waiting),
            answers: BTreeMap::from([(me, self.prepared_max)]),
            deadline: now.elapsed + self.config.request_timeout / 4,
        });
        out.push(Effect::Send(To::Others, Message::ReadQuery(id)));
        if quorum == 1 {
            self.run_reads(now, out);
        }
    }
}
