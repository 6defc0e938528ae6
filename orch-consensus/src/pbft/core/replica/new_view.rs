//! Beginning of a view: what may have been committed before is proposed again at its sequence number (TOCS
//! 4.4).

use std::{collections::BTreeMap, sync::Arc};

use super::{Replica, jobs::Job};
use crate::pbft::core::{
    batch::Batch,
    guard::Guard,
    ids::{Digest, ReplicaId, Seq, View},
    io::{Effect, Event, Moment},
    log::Proposal,
    message::{Certificate, Message, NewView, StableProof, Summary, UNSIGNED, ViewChange},
    record::Record,
    statement::{Claim, Phase},
};

/// Consequences of a quorum of view changes: the paper's min-s and O.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) base: Seq,
    /// For each sequence number after the base, up to the last prepared one: the view and batch that were
    /// prepared there last, or nothing.
    pub(super) slots: Vec<(Seq, Option<(View, Digest)>)>,
}

impl Plan {
    /// Works out what has to be proposed from what a quorum says.
    pub(super) fn of(summaries: &[Summary]) -> Self {
        let base = summaries.iter().map(|summary| summary.stable).max().unwrap_or_default();
        let mut last = BTreeMap::<Seq, (View, Digest)>::new();
        for (seq, view, digest) in summaries.iter().flat_map(|summary| &summary.prepared) {
            if *seq > base {
                let entry = last.entry(*seq).or_insert((*view, *digest));
                *entry = (*entry).max((*view, *digest));
            }
        }
        let end = last.last_key_value().map_or(base, |(seq, _)| *seq);
        let slots = (base.0 + 1..=end.0).map(|seq| (Seq(seq), last.get(&Seq(seq)).copied())).collect();
        Self { base, slots }
    }

    /// The digest of each sequence number; gaps get the null batch.
    pub(super) fn proposals(&self) -> Vec<(Seq, Digest)> {
        let null = Batch::null().digest();
        self.slots.iter().map(|(seq, chosen)| (*seq, chosen.map_or(null, |(_, digest)| digest))).collect()
    }
}

impl Replica {
    /// As the primary of the view that we are on the way to: begins it when a quorum is on the way too.
    pub(super) fn try_begin_view(&mut self, out: &mut Vec<Effect>) {
        if self.changing.is_none() || !self.is_primary() || self.new_view.is_some() {
            return;
        }
        let Some(me) = self.me else { return };
        let changes = self.view_changes.for_view(self.view);
        // Our own must be among them, which also means that the log holds that we left the views before.
        if changes.len() < self.quorum() || !changes.iter().any(|change| change.summary.replica == me) {
            return;
        }
        let new = self.plan_view(me, &changes);
        self.new_view = Some(new.clone());
        self.append(Record::NewView(new.clone()), out);
        self.publish(Message::NewView(new), out);
    }

    fn plan_view(&self, me: ReplicaId, changes: &[Arc<ViewChange>]) -> Arc<NewView> {
        let summaries: Vec<_> = changes.iter().map(|change| change.summary.clone()).collect();
        let plan = Plan::of(&summaries);
        let stable = changes
            .iter()
            .find(|change| change.summary.stable == plan.base)
            .and_then(|change| change.stable.clone());
        let proof = |(seq, chosen): &(Seq, Option<(View, Digest)>)| {
            let (view, digest) = (*chosen)?;
            let all = changes.iter().flat_map(|change| &change.prepared);
            all.clone().find(|known| (known.seq, known.view, known.digest) == (*seq, view, digest)).cloned()
        };
        let prepared = plan.slots.iter().filter_map(proof).collect();
        Arc::new(NewView {
            epoch: self.epoch(),
            view: self.view,
            replica: me,
            proposals: plan.proposals(),
            summaries,
            stable,
            prepared,
            signature: UNSIGNED,
        })
    }

    pub(super) fn on_new_view(
        &mut self,
        now: Moment,
        from: ReplicaId,
        new: Arc<NewView>,
        out: &mut Vec<Effect>,
    ) {
        // TOCS 4.4: a NEW-VIEW is of the primary of its view.
        let of_primary = self.membership().primary(new.view).id == new.replica;
        if new.epoch != self.epoch() || !self.is_ahead(new.view) || !of_primary {
            return;
        }
        if let (Some(claims), Some(sender)) = (self.new_view_claims(&new), self.key_of(from)) {
            self.verify(Job::NewView(new), claims, Some(sender), now, out);
        }
    }

    /// TOCS 4.4: V is a quorum of VIEW-CHANGEs of different replicas.
    fn is_quorum(&self, summaries: &[Summary]) -> bool {
        let distinct = summaries.windows(2).all(|pair| pair[0].replica < pair[1].replica);
        summaries.len() >= self.quorum() && distinct
    }

    /// TOCS 4.4: O is what follows from V, within the window.
    fn follows(&self, proposals: &[(Seq, Digest)], plan: &Plan) -> bool {
        let bounded = plan.slots.len() as u64 <= self.window();
        self.config.holds(Guard::ProposalsFollow, plan.proposals() == proposals) && bounded
    }

    /// The signatures that a NEW-VIEW rests on, if V is a quorum and O follows from it.
    fn new_view_claims(&self, new: &NewView) -> Option<Vec<Claim>> {
        let author = self.key_of(new.replica)?;
        let mut claims = vec![Claim { key: author, statement: new.statement(), signature: new.signature }];
        if !self.is_quorum(&new.summaries) {
            return None;
        }
        for summary in &new.summaries {
            let key = self.key_of(summary.replica)?;
            if summary.view != new.view || summary.epoch != new.epoch || !self.is_possible(summary) {
                return None;
            }
            claims.push(Claim { key, statement: summary.statement(), signature: summary.signature });
        }
        let plan = Plan::of(&new.summaries);
        if !self.follows(&new.proposals, &plan) {
            return None;
        }
        claims.extend(self.base_claims(plan.base, new.stable.as_ref())?);
        let mut proofs = new.prepared.iter();
        for (seq, view, digest) in plan.slots.iter().filter_map(|(seq, chosen)| {
            let (view, digest) = (*chosen)?;
            Some((*seq, view, digest))
        }) {
            let proof: &Certificate = proofs.next()?;
            if (proof.phase, proof.seq, proof.view, proof.digest) != (Phase::Prepare, seq, view, digest) {
                return None;
            }
            claims.extend(proof.claims(self.membership())?);
        }
        Some(claims)
    }

    /// Our NEW-VIEW is signed and the log holds that the view has begun.
    pub(super) fn enter_own_view(&mut self, now: Moment, new: Arc<NewView>, out: &mut Vec<Effect>) {
        if new.view != self.view || new.epoch != self.epoch() {
            return;
        }
        if self.changing.is_some() {
            self.begin_view(now, &new, out);
        } else {
            // It began in an earlier incarnation; now it can be shown to others again.
            self.new_view = Some(new);
        }
    }

    /// The NEW-VIEW of another replica was checked.
    pub(super) fn enter_view(&mut self, now: Moment, new: &Arc<NewView>, out: &mut Vec<Effect>) {
        if new.epoch != self.epoch() || !self.is_ahead(new.view) || self.me == Some(new.replica) {
            return;
        }
        self.append(Record::NewView(new.clone()), out);
        self.begin_view(now, new, out);
    }

    pub(super) fn begin_view(&mut self, now: Moment, new: &Arc<NewView>, out: &mut Vec<Effect>) {
        self.view = new.view;
        self.changing = None;
        self.new_view = Some(new.clone());
        Self::event(out, Event::Entered(new.view, new.replica));
        if let Some(proof) = &new.stable {
            let proof: Arc<StableProof> = Arc::new(proof.clone());
            self.take_stable_proof(now, &proof, out);
        }
        for (_, slot) in self.log.iter_mut() {
            slot.prepares.clear();
            slot.checking = false;
            slot.exposed = false;
            slot.proposal = None;
        }
        let base = new.stable.as_ref().map_or(self.log.low(), |proof| proof.checkpoint.seq);
        self.proposed = new.proposals.last().map_or(base, |(last, _)| *last);
        // A view that is resumed after a restart may have come further since.
        self.proposed = self.proposed.max(self.executed());
        for (seq, digest) in &new.proposals {
            self.adopt(now, *seq, *digest, out);
        }
        self.progress_at = now.elapsed;
        self.pool.begin_view(now.elapsed);
        self.resubmit(out);
        for (from, held) in std::mem::take(&mut self.early) {
            for message in held {
                self.on_member_message(now, from, message, out);
            }
        }
    }

    /// Sequence numbers that the view began with and that lay beyond our window are inside it now.
    pub(super) fn adopt_rest(&mut self, now: Moment, beyond: Seq, out: &mut Vec<Effect>) {
        let Some(new) = self.new_view.clone().filter(|_| self.changing.is_none()) else { return };
        for (seq, digest) in new.proposals.iter().filter(|(seq, _)| *seq > beyond) {
            if self.log.get(*seq).is_some_and(|slot| slot.proposal.is_none()) {
                self.adopt(now, *seq, *digest, out);
            }
        }
    }

    /// The view began with this batch at this sequence number: votes for it, once its body is here.
    fn adopt(&mut self, now: Moment, seq: Seq, digest: Digest, out: &mut Vec<Effect>) {
        let Some(slot) = self.log.get_mut(seq) else { return };
        if digest == Batch::null().digest() {
            slot.keep_body(Arc::new(Batch::null()));
        }
        slot.proposal = Some(Proposal { digest, since: now.elapsed, accepted: false });
        match slot.body(&digest).cloned() {
            Some(batch) => self.adopt_body(now, seq, &batch, out),
            None => slot.fetch_at = Some(now.elapsed),
        }
    }

    /// The body of an adopted proposal is here.
    pub(super) fn adopt_body(&mut self, now: Moment, seq: Seq, batch: &Arc<Batch>, out: &mut Vec<Effect>) {
        self.accept(now, batch, seq, out);
        self.vote(Phase::Prepare, self.view, seq, batch.digest(), out);
        self.try_prepared(now, seq, out);
    }
}
