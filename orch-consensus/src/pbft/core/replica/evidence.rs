//! Two statements that no correct replica signs both. They are kept and shown, so that operators can remove
//! the Byzantine replica.

use std::{collections::BTreeMap, sync::Arc};

use super::{Replica, jobs::Job};
use crate::pbft::core::{
    ids::ReplicaId,
    io::{Effect, Event, Moment, To},
    message::{Message, Vote},
    record::Record,
    statement::{Claim, Misbehaviour, Phase},
};

/// Proofs that are kept of each replica. The first one is enough to remove it.
const KEPT_OF_REPLICA: usize = 4;

/// Proofs of misbehaviour, by replica.
#[derive(Debug, Default)]
pub(super) struct Exposed {
    kept: BTreeMap<ReplicaId, Vec<Arc<Misbehaviour>>>,
}

impl Exposed {
    pub(super) fn all(&self) -> Vec<Arc<Misbehaviour>> {
        self.kept.values().flatten().cloned().collect()
    }

    fn is_full(&self, replica: ReplicaId) -> bool {
        self.kept.get(&replica).is_some_and(|kept| kept.len() >= KEPT_OF_REPLICA)
    }

    /// Keeps it, unless it is known or there is enough, and says whether it did.
    fn keep(&mut self, misbehaviour: &Arc<Misbehaviour>) -> bool {
        let kept = self.kept.entry(misbehaviour.replica).or_default();
        let known = kept.iter().any(|known| known.second.statement == misbehaviour.second.statement);
        let keeps = !known && kept.len() < KEPT_OF_REPLICA;
        if keeps {
            kept.push(misbehaviour.clone());
        }
        keeps
    }
}

impl Replica {
    /// A replica voted for two batches at one sequence number of one view.
    pub(super) fn on_conflict(&mut self, now: Moment, first: Vote, second: Vote, out: &mut Vec<Effect>) {
        let Some(key) = self.key_of(first.replica) else { return };
        self.suspect(now, first.replica, first.claim(key), second.claim(key), out);
    }

    /// Has both statements checked; when both are signed, they are evidence.
    pub(super) fn suspect(
        &mut self,
        now: Moment,
        replica: ReplicaId,
        first: Claim,
        second: Claim,
        out: &mut Vec<Effect>,
    ) {
        if self.exposed.is_full(replica) {
            return;
        }
        let misbehaviour = Misbehaviour { replica, first, second };
        self.verify(Job::Evidence(misbehaviour), vec![first, second], Some(first.key), now, out);
    }

    pub(super) fn keep_evidence(&mut self, misbehaviour: Misbehaviour, out: &mut Vec<Effect>) {
        let misbehaviour = Arc::new(misbehaviour);
        if self.exposed.keep(&misbehaviour) {
            self.append(Record::Evidence(misbehaviour.clone()), out);
            Self::event(out, Event::Evidence(misbehaviour));
        }
    }

    /// Proofs of an earlier incarnation are shown again.
    pub(super) fn regain_evidence(&mut self, found: Vec<Arc<Misbehaviour>>, out: &mut Vec<Effect>) {
        for misbehaviour in found {
            if self.exposed.keep(&misbehaviour) {
                Self::event(out, Event::Evidence(misbehaviour));
            }
        }
    }

    /// A replica prepares another batch than the one we have: it is Byzantine, or the primary equivocates.
    /// Its vote and the primary's are shown around once, so that a replica with another one of either has a
    /// proof.
    pub(super) fn expose_conflict(&mut self, vote: Vote, out: &mut Vec<Effect>) {
        if vote.phase != Phase::Prepare {
            return;
        }
        let primary = self.membership().primary(self.view).id;
        let Some(index) = self.membership().index(primary) else { return };
        let Some(slot) = self.log.get_mut(vote.seq) else { return };
        let Some(ours) = slot.prepares.of(index).copied() else { return };
        if ours.digest != vote.digest && ours.view == vote.view && !slot.exposed {
            slot.exposed = true;
            out.push(Effect::Send(To::Others, Message::Vote(ours)));
            out.push(Effect::Send(To::Others, Message::Vote(vote)));
        }
    }
}
