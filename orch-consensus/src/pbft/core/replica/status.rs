//! Replicas send each other their positions, and what the other lacks (thesis of Castro, 2001, 5.2:
//! retransmission by status). This alone makes up for lost messages: nothing else is ever sent twice on
//! suspicion.

use super::Replica;
use crate::pbft::core::{
    ids::{PublicKey, ReplicaId},
    io::{Effect, Moment, To},
    log::Slot,
    message::{Message, Status, UNSIGNED},
    statement::Phase,
};

/// Sequence numbers that are helped along in one go.
const PLACES_MAX: usize = 16;

impl Replica {
    pub(super) fn send_status(&mut self, _: Moment, out: &mut Vec<Effect>) {
        let status = Status {
            epoch: self.epoch(),
            view: self.view,
            changing: self.changing.is_some(),
            stable: self.log.low(),
            executed: self.executed(),
        };
        out.push(Effect::Send(To::Others, Message::Status(status)));
        if self.me.is_none() {
            return;
        }
        if self.changing.is_some() {
            self.send_view_change(out);
        }
        if self.transfer.is_none() {
            self.resend_checkpoints(out);
        }
    }

    pub(super) fn on_status(
        &mut self,
        now: Moment,
        from: PublicKey,
        member: Option<ReplicaId>,
        status: Status,
        out: &mut Vec<Effect>,
    ) {
        // Once in a while is enough, however often a peer asks.
        let again =
            self.helped.get(&from).is_none_or(|at| now.elapsed >= *at + self.config.status_interval / 2);
        if !again {
            return;
        }
        if member.is_some() {
            self.helped.insert(from, now.elapsed);
        }
        let behind = status.epoch < self.epoch() || status.stable < self.log.low();
        if behind && let Some(proof) = self.proof_from(status.epoch) {
            out.push(Effect::Send(To::One(from), Message::Stable(std::sync::Arc::new(proof))));
        }
        let Some(member) = member else { return };
        if status.epoch != self.epoch() {
            return;
        }
        let earlier = status.view < self.view || (status.view == self.view && status.changing);
        if earlier
            && self.changing.is_none()
            && let Some(new) = self.new_view.clone().filter(|new| new.signature != UNSIGNED)
        {
            // Even if it does not want to: its correct members are here.
            out.push(Effect::Send(To::One(from), Message::NewView(new)));
        }
        self.help_along(member, status, out);
    }

    /// Sends what a replica lacks at the sequence numbers after those it executed.
    fn help_along(&self, to: ReplicaId, status: Status, out: &mut Vec<Effect>) {
        let same_view = status.view == self.view && !status.changing && self.changing.is_none();
        let missing = self.log.iter().filter(|(seq, _)| *seq > status.executed);
        for (_, slot) in missing.take(PLACES_MAX) {
            if let Some(certificate) = slot.proof.clone() {
                self.send(to, Message::Committed(certificate), out);
            } else {
                self.send_votes(to, slot, same_view, out);
            }
        }
    }

    /// Our own votes for a sequence number; as the primary, with the batch. COMMITs count in every view.
    fn send_votes(&self, to: ReplicaId, slot: &Slot, same_view: bool, out: &mut Vec<Effect>) {
        let Some(index) = self.me.and_then(|me| self.membership().index(me)) else { return };
        if let Some(vote) = slot.prepares.of(index).copied().filter(|_| same_view) {
            match slot.body(&vote.digest) {
                Some(batch) if self.is_primary() => {
                    self.send(to, Message::PrePrepare(batch.clone(), vote), out);
                }
                _ => self.send(to, Message::Vote(vote), out),
            }
        }
        if let Some(vote) = slot.commits.of(index).filter(|vote| vote.phase == Phase::Commit) {
            self.send(to, Message::Vote(*vote), out);
        }
    }
}
